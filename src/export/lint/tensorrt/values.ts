import { intAttr } from "../../../graph/attr.ts";
import type { Model, Node, Value } from "../../../graph/ir.ts";
import type { DType } from "../../../quant/dtype.ts";
import { codeType, constantBehind, constantNumbers, grainOf, isDequantize, isQuantize, quantizers, shapeOf } from "../trace.ts";
import type { LintRule } from "../types.ts";
import { BUILDER, CODES, opset, rule } from "./common.ts";

/** Constants that the parser imports. Everything else fails before the first node. */
const IMPORTED: ReadonlySet<DType> = new Set([
  "float32",
  "float16",
  "bfloat16",
  "float64",
  "int8",
  "uint8",
  "int32",
  "int64",
  "bool",
  "float8e4m3fn",
  "int4",
  "float4e2m1",
]);
function* constants(model: Model): Generator<Value> {
  const graphs = [model.graph];
  for (let g = graphs.pop(); g; g = graphs.pop()) {
    yield* g.initializers;
    for (const n of g.nodes) graphs.push(...n.subgraphs);
  }
}
const used = (v: Value): Node | undefined => v.uses[0]?.node;
/** Rules about one Q or DQ node: its codes, scales and blocks. */
export const VALUE_RULES: readonly LintRule[] = [
  rule({
    id: "TRT01",
    kind: "reject",
    title: "zero points must be 0",
    remedy: "Quantize symmetrically: int8 with zero point 0.",
    source: `${BUILDER}: shiftIsAllZeros(zeroPoint)`,
    *check(model) {
      for (const n of quantizers(model)) {
        const z = constantNumbers(n.inputs[2]);
        const at = z === undefined ? -1 : Array.from(z).findIndex((x) => x !== 0);
        if (at >= 0) yield { at: n, text: `zero point ${z![at]} of ${n.inputs[2]!.name}` };
      }
    },
  }),
  rule({
    id: "TRT02",
    kind: "reject",
    title: "a zero point must be a constant",
    remedy: "Store it as an initializer.",
    source: "onnx-tensorrt QuantDequantLinearHelper: zero point through Constant or Constant and Cast only",
    *check(model) {
      for (const n of quantizers(model)) {
        const z = n.inputs[2];
        if (z && !constantBehind(z)) yield { at: n, text: `${z.name} is computed at run time` };
      }
    },
  }),
  rule({
    id: "TRT03",
    kind: "reject",
    title: "codes are int8, float8 e4m3, int4 or float4",
    remedy: "Write int8 codes. A bias stays float: leave it out of quantization.",
    source: `${BUILDER}: "input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8", "Found unsupported input type of UINT8"`,
    *check(model) {
      for (const n of quantizers(model)) {
        if (!isDequantize(n) || isQuantize(n.inputs[0]?.producer)) continue;
        const t = codeType(n);
        if (t !== undefined && !CODES.has(t)) yield { at: n, text: `it reads ${t}${n.inputs[0]?.data ? " constants" : ""}` };
      }
    },
  }),
  rule({
    id: "TRT04",
    kind: "reject",
    title: "constants of this type are not imported",
    remedy: "Use int8 (or int4, float8 e4m3) codes.",
    source: `${BUILDER}: "Failed to import initializer"`,
    *check(model) {
      for (const v of constants(model))
        if (v.data && !IMPORTED.has(v.data.dtype) && used(v)) yield { at: used(v), text: `${v.name} is ${v.data.dtype}` };
    },
  }),
  rule({
    id: "TRT06",
    kind: "reject",
    title: "scales are above 0",
    remedy: "Give a dead channel a small positive scale.",
    source: 'onnx-tensorrt: "Scale coefficients must all be positive"',
    *check(model) {
      for (const n of quantizers(model)) {
        const s = constantNumbers(n.inputs[1]);
        if (s && Array.from(s).some((x) => !(x > 0))) yield { at: n, text: `a scale in ${n.inputs[1]!.name} is not above 0` };
      }
    },
  }),
  rule({
    id: "TRT07",
    kind: "reject",
    title: "scales do not fit the tensor",
    remedy: "One scale, one for each element of the axis, or one for each block.",
    source: 'onnx-tensorrt: "The number of scales is not equal to the number of output channels", "Invalid rank for the scale tensor"',
    *check(model) {
      for (const n of quantizers(model)) {
        const [s, x] = [shapeOf(n.inputs[1]), shapeOf(n.inputs[0])];
        if (!s || !x) continue;
        const g = grainOf(n, opset(model));
        if (g.kind === "channel" && (g.axis < 0 || g.axis >= x.length || (x[g.axis] !== undefined && x[g.axis] !== s[0])))
          yield { at: n, text: `${s[0]} scales along axis ${g.axis} of [${x.map((d) => d ?? "?")}]` };
        else if (s.length > 1 && s.length !== x.length)
          yield { at: n, text: `scales of rank ${s.length} for a tensor of rank ${x.length}` };
      }
    },
  }),
  rule({
    id: "TRT08",
    kind: "reject",
    title: "blocks lie along one of the last two axes",
    remedy: "Leave such a weight unblocked; a Conv weight takes one scale an output channel.",
    source: `${BUILDER}: "The blocking dimension must be the last or second to last dimension"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const g = grainOf(n, opset(model));
        const rank = shapeOf(n.inputs[0])?.length;
        if (g.kind === "block" && rank !== undefined && g.axis < rank - 2)
          yield { at: n, text: `blocks along axis ${g.axis} of a tensor of rank ${rank}` };
      }
    },
  }),
  rule({
    id: "TRT09",
    kind: "reject",
    title: "4-bit tensors have an even number of elements",
    remedy: "Pad the tensor, or keep it in 8 bits.",
    source: `${BUILDER}: "4-bit quantization requies an even number of elements"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const t = codeType(n);
        const shape = shapeOf(n.inputs[0]);
        if ((t !== "int4" && t !== "float4e2m1") || !shape?.every((x) => x !== undefined)) continue;
        if (shape.every((x) => x! % 2 === 1)) yield { at: n, text: `[${shape}]` };
      }
    },
  }),
  rule({
    id: "TRT16",
    kind: "reject",
    title: "blocks are whole: their number divides the axis",
    remedy: "Choose a block size that divides the axis.",
    source: `${BUILDER}: "The quantization axis must divide into whole blocks"`,
    *check(model) {
      for (const n of quantizers(model)) {
        const g = grainOf(n, opset(model));
        const length = g.kind === "block" ? shapeOf(n.inputs[0])?.[g.axis] : undefined;
        if (g.kind === "block" && length !== undefined && (g.blocks === 0 || length % g.blocks !== 0))
          yield { at: n, text: `${g.blocks} blocks along ${length} elements` };
      }
    },
  }),
  rule({
    id: "TRT30",
    kind: "meaning",
    title: "uint8 with zero point 0 becomes int8: values above 127 saturate",
    remedy: "Quantize to int8 with zero point 0 and a scale of absmax / 127.",
    source: `${BUILDER}: "supports QuantizeLinear/DequantizeLinear with UINT8 zero_point only on DLA. Defaulting to INT8"`,
    *check(model) {
      for (const n of quantizers(model)) {
        if (!isQuantize(n) || codeType(n) !== "uint8") continue;
        const z = constantNumbers(n.inputs[2]);
        // Without zero point and output type, ONNX means uint8 and TensorRT int8.
        if (z === undefined ? !n.inputs[2] : Array.from(z).every((x) => x === 0))
          yield { at: n, text: n.inputs[2] ? "uint8 codes" : "no zero point: ONNX means uint8, TensorRT int8" };
      }
    },
  }),
  rule({
    id: "TRT33",
    kind: "meaning",
    title: "TensorRT takes the axis length over the number of blocks as the block size",
    remedy: "Choose a block size that divides the axis.",
    source: `${BUILDER}: blocks are counted by the shape of the scales; block_size is not read`,
    *check(model) {
      for (const n of quantizers(model)) {
        const g = grainOf(n, opset(model));
        const size = intAttr(n, "block_size", 0);
        const length = g.kind === "block" ? shapeOf(n.inputs[0])?.[g.axis] : undefined;
        if (g.kind === "block" && size > 0 && length !== undefined && length % g.blocks === 0 && length / g.blocks !== size && g.blocks > 1)
          yield { at: n, text: `block_size ${size}, ${g.blocks} blocks along ${length} elements` };
      }
    },
  }),
];
