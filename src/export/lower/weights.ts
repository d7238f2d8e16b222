import type { Graph, Node, Use, Value } from "../../graph/ir.ts";
import { floats } from "../../graph/tensor.ts";
import { tensorType } from "../../graph/types.ts";
import { type Coded, codesOf } from "../../plan/codes.ts";
import type { Resolver } from "../../plan/resolve.ts";
import type { PlanBundle } from "../../plan/types.ts";
import { decode } from "../../quant/encode.ts";
import { isCodeDType } from "../../quant/float8.ts";
import { lowerMxfp8, lowerNvfp4 } from "./blockfloat.ts";
import { lowerMatMulBnb4 } from "./bnb4.ts";
import { lowerQdqCast } from "./cast.ts";
import { axisAttrs, isTensorCode, paramConstants, RULE, weightCodes } from "./emit.ts";
import { lowerGatherCodes } from "./gather.ts";
import { lowerMatMulInteger } from "./integer.ts";
import { lowerDynamicLstm } from "./lstm.ts";
import { lowerGatherBlock, lowerMatMulNBits, PackedConstants } from "./nbits.ts";
import { lowerRequantized } from "./requantized.ts";

/** Constants shared by the sites of one value with equal codes and parameters (an embedding and the output projection). */
export class Constants {
  readonly #made = new Map<Value, Map<string, { readonly codes: Value; readonly scale: Value; readonly zeroPoint: Value }>>();

  of(c: Coded): { readonly codes: Value; readonly scale: Value; readonly zeroPoint: Value } {
    const { scheme } = c.site;
    const key = JSON.stringify([scheme, [...c.scale], [...c.zeroPoint], c.site.codes?.tensor]);
    const known = this.#made.get(c.value) ?? new Map();
    this.#made.set(c.value, known);
    const old = known.get(key);
    if (old) return old;
    if (!isTensorCode(scheme.dtype)) throw new Error(`internal: no tensor type holds codes of ${scheme.dtype}`);
    const graph = c.value.graph;
    const stem = c.value.name;
    const made = {
      codes: graph.constant(weightCodes(c, scheme.dtype), `${stem}_quantized`),
      ...paramConstants(graph, stem, c.shape, scheme, c.scale, c.zeroPoint),
    };
    known.set(key, made);
    return made;
  }
}

/** Weight sites to constants and the nodes of their form. The floats lose their last use and are swept away. */
export function lowerWeights(bundle: PlanBundle, resolve: Resolver, simulated: boolean): void {
  const constants = new Constants();
  const packed = new PackedConstants();
  const lstm: { coded: Coded; uses: readonly Use[] }[] = [];
  for (const site of bundle.plan.sites) {
    if (site.kind !== "weight") continue;
    const value = resolve.value(site.value);
    const uses = resolve.uses(site, value);
    const coded = codesOf(bundle, site, value);
    const form = site.form ?? "qdq";
    switch (form) {
      case "qdq":
        lowerQdq(coded, constants, uses);
        break;
      case "gather-codes":
        lowerGatherCodes(coded, constants, uses);
        break;
      case "matmul-integer":
      case "matmul-integer-tokens":
        lowerMatMulInteger(coded, uses, form === "matmul-integer-tokens" ? { opset: bundle.plan.opset } : undefined);
        break;
      case "dynamic-lstm":
        lstm.push({ coded, uses });
        break;
      case "matmul-nbits":
        lowerMatMulNBits(coded, packed, uses);
        break;
      case "matmul-bnb4":
        lowerMatMulBnb4(coded, uses);
        break;
      case "gather-block":
        lowerGatherBlock(coded, packed, uses);
        break;
      case "qdq-requantized":
        lowerRequantized(coded, constants, uses);
        break;
      case "qdq-cast":
        lowerQdqCast(coded, uses);
        break;
      case "nvfp4":
      case "mxfp8":
        if (simulated) lowerToFloats(coded, uses);
        else if (form === "nvfp4") lowerNvfp4(coded, bundle, uses);
        else lowerMxfp8(coded, uses);
        break;
      default:
        form satisfies never;
    }
  }
  lowerDynamicLstm(lstm);
}

/** The floats of the codes, where no runtime here has the form. */
function lowerToFloats(c: Coded, uses: readonly Use[]): void {
  const { dtype, granularity } = c.site.scheme;
  if (!isCodeDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
  const real = decode(c.codes, c.shape, { dtype, granularity, scale: Float32Array.from(c.scale), zeroPoint: c.zeroPoint });
  const k = c.value.graph.constant(floats(real, c.shape), `${c.value.name}_simulated`);
  for (const u of uses) u.node.graph.replaceUse(u.node, u.input, k);
}

/** A DequantizeLinear in front of each consumer's graph: inside a branch it runs only when the branch does. */
function lowerQdq(c: Coded, constants: Constants, uses: readonly Use[]): void {
  for (const [graph, part] of byGraph(uses)) {
    const { out } = dequantized(c, constants, graph, part, "dequantized");
    for (const u of part) graph.replaceUse(u.node, u.input, out);
  }
}

/** A DequantizeLinear before the first consumer in `graph`: its float output, named with `suffix`, and that consumer. */
export function dequantized(
  c: Coded,
  constants: Constants,
  graph: Graph,
  uses: readonly Use[],
  suffix: string,
): { readonly out: Value; readonly first: Node } {
  const k = constants.of(c);
  const first = earliest(
    graph,
    uses.map((u) => u.node),
  );
  const output = graph.freshName(`${c.value.name}_${suffix}`);
  const dq = graph.insertBefore(first, {
    op: "DequantizeLinear",
    // What tells the outputs of two sites of one value apart tells the nodes apart.
    name: `${c.value.name}_DequantizeLinear${output.slice(`${c.value.name}_${suffix}`.length)}`,
    inputs: [k.codes, k.scale, k.zeroPoint],
    outputs: [output],
    attrs: axisAttrs(c.site.scheme),
    origin: { rule: RULE, from: [c.value.name] },
  });
  const out = dq.outputs[0]!;
  graph.setType(out, tensorType("float32", c.shape));
  return { out, first };
}

export function byGraph(uses: readonly Use[]): Map<Graph, Use[]> {
  const out = new Map<Graph, Use[]>();
  for (const u of uses) out.set(u.node.graph, [...(out.get(u.node.graph) ?? []), u]);
  return out;
}

export function earliest(graph: Graph, nodes: readonly Node[]): Node {
  const set = new Set(nodes);
  return graph.nodes.find((n) => set.has(n))!;
}
