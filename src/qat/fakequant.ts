import type { Emit, Row, Rule } from "../grad/index.ts";
import type { Graph, Node, Value } from "../graph/ir.ts";
import { floats, tensorFromBytes } from "../graph/tensor.ts";
import { INT_DTYPES, type IntDType } from "../quant/dtype.ts";
import { packCodes } from "../quant/pack.ts";

/**
 * Two virtual operators that exist between inserting and running: their slope is not the derivative of what they compute.
 *
 * `Codes(v, lo, hi)`: q = clip(roundHalfEven(v), lo, hi). Straight through inside: dv = dq·1[lo ≤ v ≤ hi] (Bengio et al. 2013).
 *   With v = w/s and ŵ = s·q around it, the ordinary rows give LSQ's ds = Σ dŵ·(q − v·1[inside]) (Esser et al. 2020).
 * `FakeQuant(x, s)` for activations: x̂ = s·(clip(roundHalfEven(x/s) + z, lo, hi) − z);
 *   dx = dx̂·1[s(lo−z) ≤ x ≤ s(hi−z)];  ds = (Σ dx̂·x̂ − Σ dx·x)/s: the same LSQ form without a division per element.
 */
export const QAT_DOMAIN = "qc.qat";
const CODES = "Codes";
const FAKE_QUANT = "FakeQuant";

export interface Affine {
  readonly dtype: IntDType;
  readonly narrow: boolean;
  /** Axis of channels, or undefined for one scale. */
  readonly axis: number | undefined;
  /** One, or one per channel. */
  readonly zeroPoint: ArrayLike<number>;
}

/** What the virtual nodes carry beside their inputs. */
export class FakeQuants {
  readonly affine = new Map<Node, Affine>();

  readonly rules: ReadonlyMap<string, Rule> = new Map([
    [`${QAT_DOMAIN}:${CODES}`, (r: Row) => this.#codes(r)],
    [`${QAT_DOMAIN}:${FAKE_QUANT}`, (r: Row) => this.#fakeQuant(r)],
  ]);

  addCodes(g: Graph, before: Node, v: Value, lo: Value, hi: Value, name: string): Value {
    return g.insertBefore(before, { op: CODES, domain: QAT_DOMAIN, inputs: [v, lo, hi], name, outputs: [name] }).outputs[0]!;
  }
  addFakeQuant(x: Value, scale: Value, a: Affine, name: string, place: (spec: Parameters<Graph["append"]>[0]) => Node): Value {
    const node = place({ op: FAKE_QUANT, domain: QAT_DOMAIN, inputs: [x, scale], name, outputs: [name] });
    this.affine.set(node, a);
    node.outputs[0]!.type = x.type;
    return node.outputs[0]!;
  }

  /** A Relu that only fake quantizers with the zero point at the bottom read goes: they clip at 0 themselves, forward and backward. */
  absorbRelus(g: Graph): void {
    for (const relu of [...g.nodes]) {
      if (relu.op !== "Relu" || relu.domain !== "") continue;
      const y = relu.outputs[0]!;
      const readers = y.uses.map((u) => this.affine.get(u.node));
      if (y.isOutput || y.uses.length === 0 || !readers.every((a) => a && bounds(a).lo.every((v) => v === 0))) continue;
      g.replaceAllUses(y, relu.inputs[0]!);
      g.remove(relu);
    }
  }

  #codes(r: Row): (Value | undefined)[] {
    const inside = r.op("And", r.op("GreaterOrEqual", r.x(), r.x(1)), r.op("LessOrEqual", r.x(), r.x(2)));
    return [r.where(inside, r.dy(), 0)];
  }

  #fakeQuant(r: Row): (Value | undefined)[] {
    const a = this.affine.get(r.node)!;
    const [x, s] = [r.x(0), r.x(1)];
    const { lo, hi } = bounds(a);
    const at = (limits: readonly number[]) => {
      const k = r.e.graph.constant(floats(limits, limits.length === 1 ? [] : [limits.length]), "grad/bound");
      return perChannel(r.e, r.op("Mul", s, k), a, r.x());
    };
    const low = lo.every((v) => v === 0) && isPositive(x) ? undefined : at(lo);
    const inside = !low
      ? r.op("LessOrEqual", x, at(hi))
      : a.axis === undefined
        ? r.op("Equal", r.op("Clip", x, low, at(hi)), x)
        : r.op("And", r.op("LessOrEqual", x, at(hi)), r.op("GreaterOrEqual", x, low));
    const dx = r.masked(inside, r.dy());
    if (!r.need(1)) return [dx];
    const sum = (v: Value) => {
      if (a.axis === undefined) return r.e.op("ReduceSum", [v], { keepdims: 0 });
      const axes = Array.from({ length: r.rank(x) }, (_, i) => i).filter((i) => i !== a.axis);
      return r.e.reduce("ReduceSum", v, axes, 0);
    };
    const ds = r.op("Div", sum(r.sub(r.mul(r.dy(), r.y()), r.mul(dx, x))), s);
    return [r.need(0) ? dx : undefined, ds];
  }

  /** Virtual nodes become real ones, in place. Full-range types use Q and DQ, the very nodes of the exported graph. */
  expand(g: Graph, e: Emit): void {
    for (const n of [...g.nodes]) {
      if (n.domain !== QAT_DOMAIN) continue;
      const out = n.op === CODES ? this.#expandCodes(g, n) : this.#expandFakeQuant(g, n, e);
      const old = n.outputs[0]!;
      g.replaceAllUses(old, out);
      const name = old.name;
      if (old.isOutput) g.takeOutput(old, out);
      g.remove(n);
      if (out.name !== name) g.rename(out, name);
    }
  }

  #expandCodes(g: Graph, n: Node): Value {
    const put = (op: string, ...inputs: Value[]) => {
      const name = g.freshName(`${n.name}/${op}`);
      return g.insertBefore(n, { op, inputs, name, outputs: [name] }).outputs[0]!;
    };
    const [v, lo, hi] = n.inputs as [Value, Value, Value];
    if (lo.data?.shape.length === 0 && hi.data?.shape.length === 0) return put("Clip", put("Round", v), lo, hi);
    return put("Min", put("Max", put("Round", v), lo), hi);
  }

  #expandFakeQuant(g: Graph, n: Node, e: Emit): Value {
    const a = this.affine.get(n)!;
    const [x, s] = [n.inputs[0]!, n.inputs[1]!];
    const put = (op: string, inputs: Value[], attrs: Record<string, number> = {}) => {
      const name = g.freshName(`${n.name}/${op}`);
      return g.insertBefore(n, { op, inputs, attrs, name, outputs: [name] }).outputs[0]!;
    };
    const wide = a.dtype === "uint8" || a.dtype === "int8" || ((a.dtype === "uint16" || a.dtype === "int16") && e.opset >= 21);
    if (wide && !(a.narrow && INT_DTYPES[a.dtype].min < 0)) {
      const codes = Array.from(a.zeroPoint);
      const shape = a.axis === undefined ? [] : [codes.length];
      const z = g.constant(tensorFromBytes(a.dtype, shape, packCodes(codes, a.dtype)), `${n.name}/zero_point`);
      const attrs: Record<string, number> = a.axis === undefined ? {} : { axis: a.axis };
      return put("DequantizeLinear", [put("QuantizeLinear", [x, s, z], attrs), s, z], attrs);
    }
    const { lo, hi } = bounds(a);
    const k = (v: readonly number[]) => {
      const shape = v.length === 1 ? [] : channelShape(e, x, a, v.length);
      return g.constant(floats(v, shape), `${n.name}/bound`);
    };
    const wideScale = a.axis === undefined ? s : put("Reshape", [s, e.ints(channelShape(e, x, a, -1))]);
    const rounded = put("Round", [put("Div", [x, wideScale])]);
    const codes =
      lo.length === 1 && hi.length === 1 ? put("Clip", [rounded, k(lo), k(hi)]) : put("Min", [put("Max", [rounded, k(lo)]), k(hi)]);
    return put("Mul", [codes, wideScale]);
  }
}

/** Bounds of code − zero point: per tensor or per channel. */
function bounds(a: Affine): { readonly lo: readonly number[]; readonly hi: readonly number[] } {
  const { min, max } = INT_DTYPES[a.dtype];
  const least = a.narrow && min < 0 ? -max : min;
  const z = Array.from(a.zeroPoint);
  return { lo: z.map((v) => least - v), hi: z.map((v) => max - v) };
}
/** [1, …, n, …, 1] with n at the channel axis of x. */
function channelShape(e: Emit, x: Value, a: Affine, n: number): number[] {
  const rank = e.shape(x)?.length;
  if (rank === undefined) throw new Error(`internal: rank of "${x.name}" is not known`);
  return Array.from({ length: rank }, (_, i) => (i === a.axis ? n : 1));
}
function perChannel(e: Emit, v: Value, a: Affine, x: Value): Value {
  return a.axis === undefined ? v : e.op("Reshape", [v, e.ints(channelShape(e, x, a, -1))]);
}

/** Produced by a Relu, directly or through operators that keep the sign. */
function isPositive(v: Value): boolean {
  let at: Value | undefined = v;
  while (at) {
    const p: Node | undefined = at.producer;
    if (!p) return false;
    if (p.op === "Relu" || p.op === "Sigmoid" || p.op === "Softmax") return p.domain === "";
    if (p.op !== "MaxPool" && p.op !== "AveragePool" && p.op !== "GlobalAveragePool" && p.op !== "Reshape") return false;
    at = p.inputs[0];
  }
  return false;
}
