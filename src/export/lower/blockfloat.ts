import type { Graph, Node, Use, Value } from "../../graph/ir.ts";
import { floats, tensorFrom } from "../../graph/tensor.ts";
import { tensorType } from "../../graph/types.ts";
import type { BlockSite } from "../../plan/blockfloat.ts";
import type { Coded } from "../../plan/codes.ts";
import { readNumbers, spread } from "../../plan/tensors.ts";
import type { PlanBundle } from "../../plan/types.ts";
import { E8M0_BIAS } from "../../quant/blockfloat.ts";
import { DTYPES, type DType } from "../../quant/dtype.ts";
import { paramCount } from "../../quant/encode.ts";
import { toFloat8 } from "../../quant/float8.ts";
import { qparamShape } from "../../quant/granularity.ts";
import { behind, codesTensor, RULE } from "./emit.ts";
import { byGraph, earliest } from "./weights.ts";

/** The domain of TensorRT's own operators (onnx-tensorrt docs/TRT_custom_ops.md). */
export const TRT_DOMAIN = "trt";
type Spec = Parameters<Graph["append"]>[0];

/**
 * A weight [K, N] (or [N, K]) of float4 in blocks of 16 along K, in standard operators of opset 23:
 *
 *   DequantizeLinear(float8 [K/16, N], t)  ->  scales;   DequantizeLinear(float4 [K, N], scales, axis, block_size 16)
 */
export function lowerNvfp4(c: Coded, bundle: PlanBundle, uses: readonly Use[]): void {
  const { site, shape, value } = c;
  const g = site.scheme.granularity;
  if (g.kind !== "block" || site.tensorScale === undefined) throw new Error("internal: NVFP4 has blocks and a scale of the tensor");
  const dims = qparamShape(shape, g);
  const own = spread(readNumbers(bundle, site.scale), paramCount(shape, g));
  const stem = value.name;
  const k = value.graph;
  const codes = k.constant(codesTensor(c.codes, shape, "float4e2m1"), `${stem}_quantized`);
  const scale = k.constant(codesTensor(Array.from(own, toFloat8), dims, "float8e4m3fn"), `${stem}_scale`);
  const tensorScale = k.constant(floats([site.tensorScale], []), `${stem}_tensor_scale`);
  for (const [graph, part] of byGraph(uses)) {
    const place = before(graph, part);
    const scales = node(graph, place, value, "scales", "DequantizeLinear", [scale, tensorScale], {}, "float32", dims);
    const attrs = { axis: g.axis, block_size: g.size };
    const out = node(graph, place, value, "dequantized", "DequantizeLinear", [codes, scales], attrs, "float32", shape);
    for (const u of part) graph.replaceUse(u.node, u.input, out);
  }
}

/** A weight of float8 in blocks of 32: scales 2^e as e + 127 in uint8, which the parser reads as float8 e8m0. ONNX' own form it refuses. */
export function lowerMxfp8(c: Coded, uses: readonly Use[]): void {
  const { site, shape, value } = c;
  const g = site.scheme.granularity;
  if (g.kind !== "block") throw new Error("internal: MXFP8 has blocks");
  const exponents = Uint8Array.from(spread(c.scale, paramCount(shape, g)), (s) => Math.log2(s) + E8M0_BIAS);
  const codes = value.graph.constant(codesTensor(c.codes, shape, "float8e4m3fn"), `${value.name}_quantized`);
  const scale = value.graph.constant(tensorFrom(exponents, qparamShape(shape, g)), `${value.name}_scale`);
  for (const [graph, part] of byGraph(uses)) {
    const out = mxDequantize(graph, before(graph, part), value, [codes, scale], g.axis, g.size, shape);
    for (const u of part) graph.replaceUse(u.node, u.input, out);
  }
}

/** An activation in blocks, their scales taken while running by TensorRT's DynamicQuantize; the reader gets float32 again. */
export function blockPair(value: Value, bundle: PlanBundle, site: BlockSite): Value {
  const g = site.scheme.granularity;
  const graph = value.graph;
  const shape = value.type?.kind === "tensor" ? value.type.shape : undefined;
  const first = behind(graph, value);
  let last: Node | undefined;
  const place = (spec: Spec): Node => (last = last ? graph.insertAfter(last, spec) : first(spec));
  const attrs = { axis: -1, block_size: g.size };
  if (site.kind === "dynamic") {
    const quantize = { ...attrs, output_dtype: DTYPES.float8e4m3fn.code };
    const [codes, scale] = pair(graph, place, value, "TRT_MXFP8DynamicQuantize", [value], quantize, ["float8e4m3fn", "uint8"]);
    codes.graph.setType(codes, tensorType("float8e4m3fn", shape));
    return mxDequantize(graph, place, value, [codes, scale], -1, g.size, shape);
  }
  const tensorScale = graph.constant(floats(readNumbers(bundle, site.scale), []), `${value.name}_tensor_scale`);
  const quantize = { ...attrs, scale_type: DTYPES.float8e4m3fn.code };
  const [codes, scale] = pair(graph, place, value, "TRT_FP4DynamicQuantize", [value, tensorScale], quantize, [
    "float4e2m1",
    "float8e4m3fn",
  ]);
  codes.graph.setType(codes, tensorType("float4e2m1", shape));
  const scales = node(graph, place, value, "scales", "DequantizeLinear", [scale, tensorScale], {}, "float32");
  return node(graph, place, value, "dequantized", "DequantizeLinear", [codes, scales], attrs, "float32", shape);
}

function before(graph: Graph, uses: readonly Use[]): (spec: Spec) => Node {
  const first = earliest(
    graph,
    uses.map((u) => u.node),
  );
  return (spec) => graph.insertBefore(first, spec);
}

function mxDequantize(
  graph: Graph,
  place: (spec: Spec) => Node,
  near: Value,
  inputs: readonly Value[],
  axis: number,
  size: number,
  shape: Parameters<typeof tensorType>[1],
): Value {
  const attrs = { axis, block_size: size, output_dtype: DTYPES.float32.code };
  return node(graph, place, near, "dequantized", "TRT_MXFP8DequantizeLinear", inputs, attrs, "float32", shape, TRT_DOMAIN);
}

function node(
  graph: Graph,
  place: (spec: Spec) => Node,
  near: Value,
  suffix: string,
  op: string,
  inputs: readonly Value[],
  attrs: Record<string, number>,
  dtype: DType,
  shape?: Parameters<typeof tensorType>[1],
  domain = "",
): Value {
  const name = graph.freshName(`${near.name}_${suffix}`);
  const spec = { op, domain, name: `${name}_${op}`, inputs, attrs, outputs: [name], origin: { rule: RULE, from: [near.name] } };
  const out = place(spec).outputs[0]!;
  graph.setType(out, tensorType(dtype, shape));
  return out;
}

/** A dynamic quantizer: codes and scales. */
function pair(
  graph: Graph,
  place: (spec: Spec) => Node,
  near: Value,
  op: string,
  inputs: readonly Value[],
  attrs: Record<string, number>,
  dtypes: readonly [DType, DType],
): readonly [Value, Value] {
  const outputs = ["quantized", "block_scale"].map((s) => graph.freshName(`${near.name}_${s}`));
  const spec = { op, domain: TRT_DOMAIN, name: `${outputs[0]}_${op}`, inputs, attrs, outputs, origin: { rule: RULE, from: [near.name] } };
  const made = place(spec).outputs as [Value, Value];
  for (const [i, v] of made.entries()) graph.setType(v, tensorType(dtypes[i]!, undefined));
  return made;
}
