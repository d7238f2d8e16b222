import { intAttr, intsAttr, stringAttr } from "../../graph/attr.ts";
import type { Node } from "../../graph/ir.ts";
import { opFacts } from "../../graph/ops/index.ts";
import { asIntegers, type TensorData } from "../../graph/tensor.ts";
import { soleUse, sweep } from "../edit.ts";
import { matched, nodeRule, refuse } from "../rule.ts";

interface Bind {
  readonly pad: Node;
  readonly consumer: Node;
  /** Begins and ends of the spatial axes, together with the consumer's own. */
  readonly pads: readonly number[];
}

/**
 * Pad with zeros in front of a convolution or an average pool becomes its `pads`: exact, since those pad with zeros too.
 *     pads' = pads(consumer) + pads(Pad)     on spatial axes only, none negative
 * An average pool must then count padded elements (`count_include_pad`), so it must have counted them, or have had none of its own;
 * with `ceil_mode` the last window would change. A max pool pads with −∞, not with 0.
 */
export const foldPad = nodeRule<Bind>({
  name: "fold-pad",
  ops: ["Pad"],
  tolerance: 0,
  match(pad) {
    const use = soleUse(pad.outputs[0]);
    const consumer = use?.node;
    if (!consumer || use.input !== 0 || consumer.graph !== pad.graph || consumer.domain !== "") return undefined;
    const pool = consumer.op === "AveragePool";
    if (consumer.op === "MaxPool") return refuse(pad, "a max pool pads with −∞, not with 0");
    if (consumer.op === "ConvTranspose") return refuse(pad, "the pads of a transposed convolution crop");
    if (!pool && !(consumer.op === "Conv" && opFacts(consumer)?.trait === "compute")) return undefined;
    const mode = stringAttr(pad, "mode", "constant");
    if (mode !== "constant") return refuse(pad, `its mode is ${mode}`);
    const all = padsOf(pad);
    if (typeof all === "string") return refuse(pad, all);
    const rank = all.length / 2;
    const spatial = rank - 2;
    if (spatial < 1) return undefined;
    if ([0, 1, rank, rank + 1].some((i) => all[i] !== 0)) return refuse(pad, "it pads the batch or the channels");
    if (all.some((p) => p < 0)) return refuse(pad, "it crops");
    const auto = stringAttr(consumer, "auto_pad", "NOTSET");
    if (auto !== "NOTSET" && auto !== "VALID") return refuse(consumer, `it pads by auto_pad ${auto}`);
    const own = auto === "VALID" ? undefined : intsAttr(consumer, "pads");
    if (pool) {
      if (intAttr(consumer, "ceil_mode", 0) !== 0) return refuse(consumer, "its ceil_mode adds a window at the border");
      if (intAttr(consumer, "count_include_pad", 0) === 0 && own?.some((p) => p !== 0))
        return refuse(consumer, "it does not count its own padding");
    }
    const extra = [...all.slice(2, rank), ...all.slice(rank + 2)];
    const pads = extra.map((p, i) => p + (own?.[i] ?? 0));
    const kernel = intsAttr(consumer, "kernel_shape");
    // The runtime refuses pools with windows of nothing but padding.
    if (pool && pads.some((p, i) => p >= (kernel?.[i % spatial] ?? 0)))
      return refuse(consumer, "the padding would be as large as its kernel");
    return matched({ pad, consumer, pads });
  },
  apply({ pad, consumer, pads }) {
    const g = pad.graph;
    if (consumer.attrs.has("auto_pad")) g.setAttr(consumer, "auto_pad", undefined);
    g.setAttr(consumer, "pads", pads);
    if (consumer.op === "AveragePool") g.setAttr(consumer, "count_include_pad", 1);
    consumer.origin = { rule: "fold-pad", from: [consumer.name, pad.name] };
    const rest = pad.inputs.slice(1);
    g.replaceUse(consumer, 0, pad.inputs[0]);
    g.remove(pad);
    for (const v of rest) sweep(v);
  },
});

/** Begins then ends of every axis, or why they are not known. */
function padsOf(pad: Node): readonly number[] | string {
  const attr = intsAttr(pad, "pads");
  if (attr) return Number(attrFloat(pad)) === 0 ? attr : "it pads with another number than 0";
  const [, pads, value, axes] = pad.inputs;
  if (!pads?.isConstant) return "its pads are computed at run time";
  if (axes) return "it names its axes";
  if (value && !(value.isConstant && isZero(value.data!))) return "it pads with another number than 0";
  return asIntegers(pads.data!);
}

function attrFloat(pad: Node): number {
  const a = pad.attrs.get("value");
  return a?.kind === "float" ? a.value : 0;
}

function isZero(t: TensorData): boolean {
  return t.bytes().every((b) => b === 0);
}
