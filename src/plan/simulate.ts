import { cloneModel } from "../graph/clone.ts";
import { type Graph, type Model, opsetOf, type Use, type Value } from "../graph/ir.ts";
import { floats, tensorFrom } from "../graph/tensor.ts";
import { requireOpset } from "../prepare/opset/index.ts";
import { codeBounds } from "../quant/affine.ts";
import { DTYPES, isIntDType } from "../quant/dtype.ts";
import { decode, encode, paramCount } from "../quant/encode.ts";
import { isCodeDType, isFloatCodeDType } from "../quant/float8.ts";
import { type BlockSite, blockRounded, isBlockSite } from "./blockfloat.ts";
import { type Coded, codesOf, requantizedParams } from "./codes.ts";
import { Resolver } from "./resolve.ts";
import { readNumbers, spread } from "./tensors.ts";
import { tokenQuotient } from "./tokens.ts";
import type { PlanBundle, Site } from "./types.ts";

/**
 * What a plan means, in float operators alone: the reference that `lower` must equal, and what is scored where no runtime here executes
 * the target's form. Weights become the floats of their codes; a static activation becomes
 *
 *   y = (clip(round(x / s) + z, lo, hi) - z) * s        (Div, Round, Add, Clip, Sub, Mul; Round goes half to even)
 *
 * which is what Q and DQ do, in the same float32 steps. A dynamic activation is Q/DQ by DynamicQuantizeLinear. The arguments are not
 * changed.
 */
export function simulate(model: Model, bundle: PlanBundle): Model {
  const out = cloneModel(model);
  if (bundle.plan.sites.some((s) => isFloatCodeDType(s.scheme.dtype)) && (opsetOf(out) ?? 1) < bundle.plan.opset)
    requireOpset(out, bundle.plan.opset);
  const resolve = new Resolver(out);
  for (const r of bundle.plan.replacements) {
    const v = resolve.value(r.value);
    v.graph.setData(v, bundle.tensors.get(r.tensor.tensor)!);
  }
  for (const i of bundle.plan.insertions) {
    const v = resolve.value(i.value);
    const uses = resolve.uses(i, v);
    const by = v.graph.constant(bundle.tensors.get(i.by.tensor)!, `${v.name}_factor`);
    const y = put(v, "Mul", [v, by]);
    for (const u of uses) u.node.graph.replaceUse(u.node, u.input, y);
  }
  for (const site of bundle.plan.sites) {
    const value = resolve.value(site.value);
    const uses = resolve.uses(site, value);
    switch (site.kind) {
      case "weight": {
        const c = codesOf(bundle, site, value);
        const real = weightOf(c);
        const k = value.graph.constant(tensorFrom(real, c.shape), `${value.name}_simulated`);
        for (const u of uses) u.node.graph.replaceUse(u.node, u.input, k);
        break;
      }
      case "static":
        redirect(out, site, value, uses, (v) => (isBlockSite(site) ? blockFakeQuant(bundle, site, v) : fakeQuant(bundle, site, v)));
        break;
      case "dynamic":
        redirect(
          out,
          site,
          value,
          uses,
          isBlockSite(site)
            ? (v) => blockFakeQuant(bundle, site, v)
            : site.per === "token"
              ? tokenFakeQuant(opsetOf(out) ?? 1)
              : dynamicFakeQuant,
        );
        break;
      case "cast":
        throw new Error("internal: a cast has no simulation here");
      default:
        site satisfies never;
    }
  }
  return out;
}

/** The floats that a product meets: those of the codes, once more through 8 bits where the form says so. */
function weightOf(c: Coded): Float32Array {
  const { dtype, granularity } = c.site.scheme;
  if (c.site.form === "qdq-requantized") {
    const { axis, scale, real } = requantizedParams(c);
    const p = { dtype: "int8", narrow: false, granularity: { kind: "channel", axis }, scale, zeroPoint: [0] } as const;
    return decode(encode(real, c.shape, p), c.shape, p);
  }
  if (!isCodeDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
  return decode(c.codes, c.shape, { dtype, granularity, scale: Float32Array.from(c.scale), zeroPoint: c.zeroPoint });
}

/** Points the uses at what `make` builds on the value they read now; `all` takes the graph output along. */
function redirect(model: Model, site: Site, value: Value, uses: readonly Use[], make: (v: Value) => Value): void {
  const made = new Map<Value, Value>();
  const on = (v: Value): Value => {
    const y = made.get(v) ?? make(v);
    made.set(v, y);
    return y;
  };
  for (const u of uses) u.node.graph.replaceUse(u.node, u.input, on(u.node.inputs[u.input]!));
  if (site.consumers === "all" && value.isOutput) model.graph.takeOutput(value, on(value));
}

function put(near: Value, op: string, inputs: readonly Value[], outputs = 1): Value {
  return place(near.graph, near, inputs, op, outputs)[0]!;
}

/** A node right behind the last producer among its inputs. */
function place(
  graph: Graph,
  near: Value,
  inputs: readonly Value[],
  op: string,
  outputs: number,
  attrs: Readonly<Record<string, number | readonly number[]>> = {},
): Value[] {
  const names = Array.from({ length: outputs }, (_, i) => graph.freshName(`${near.name}_sim${i === 0 ? "" : i}`));
  const producers = inputs.map((v) => v.producer).filter((p) => p?.graph === graph);
  const spec = { op, inputs, attrs, outputs: names, name: names[0]! };
  const last = producers.sort((a, b) => graph.indexOf(a!) - graph.indexOf(b!)).at(-1);
  const first = graph.nodes[0];
  const node = last ? graph.insertAfter(last, spec) : first ? graph.insertBefore(first, spec) : graph.append(spec);
  return node.outputs as Value[];
}

function fakeQuant(bundle: PlanBundle, site: Extract<Site, { kind: "static" }>, x: Value): Value {
  const { dtype, granularity } = site.scheme;
  if (dtype === "float8e4m3fn") return float8FakeQuant(bundle, site, x);
  if (!isIntDType(dtype)) throw new Error(`internal: no affine codes of ${dtype}`);
  const { graph } = x;
  const shape = x.type?.kind === "tensor" ? ((x.type.shape ?? []) as number[]) : [];
  const n = paramCount(shape, granularity);
  const dims = granularity.kind === "channel" ? shape.map((d, i) => (i === granularity.axis ? d : 1)) : [];
  const constant = (list: Float64Array, name: string): Value => graph.constant(floats(spread(list, n), dims), `${x.name}_${name}`);
  const s = constant(readNumbers(bundle, site.scale), "s");
  const z = constant(readNumbers(bundle, site.zeroPoint), "z");
  // QuantizeLinear saturates at the type's bounds, whatever the scheme's narrow says.
  const { min, max } = codeBounds(dtype, false);
  const [lo, hi] = [min, max].map((b, i) => graph.constant(floats([b], []), `${x.name}_${i === 0 ? "lo" : "hi"}`)) as [Value, Value];
  const q = put(x, "Clip", [put(x, "Add", [put(x, "Round", [put(x, "Div", [x, s])]), z]), lo, hi]);
  const y = put(x, "Mul", [put(x, "Sub", [q, z]), s]);
  y.graph.setType(y, x.type);
  return y;
}

/** y = Cast(Cast(x / s, float8)) * s; Cast saturates and rounds to nearest even, as QuantizeLinear does. */
function float8FakeQuant(bundle: PlanBundle, site: Extract<Site, { kind: "static" }>, x: Value): Value {
  const s = x.graph.constant(floats(readNumbers(bundle, site.scale), []), `${x.name}_s`);
  const q = place(x.graph, x, [put(x, "Div", [x, s])], "Cast", 1, { to: DTYPES.float8e4m3fn.code })[0]!;
  const y = put(x, "Mul", [place(x.graph, x, [q], "Cast", 1, { to: DTYPES.float32.code })[0]!, s]);
  y.graph.setType(y, x.type);
  return y;
}

/** y = round(x / s) * s, s a scale for each row: see `tokenQuotient`. */
const tokenFakeQuant =
  (opset: number) =>
  (x: Value): Value => {
    const { quotient, scale } = tokenQuotient(x, {
      opset,
      node: (op, inputs, _hint, attrs) => place(x.graph, x, inputs, op, 1, attrs)[0]!,
      constant: (data, hint) => x.graph.constant(data, `${x.name}_${hint}`),
    });
    const y = put(x, "Mul", [put(x, "Round", [quotient]), scale]);
    y.graph.setType(y, x.type);
    return y;
  };

/** y = the value rounded to its block format: see plan/blockfloat.ts. */
function blockFakeQuant(bundle: PlanBundle, site: BlockSite, x: Value): Value {
  const y = blockRounded(x, bundle, site, {
    opset: bundle.plan.opset,
    node: (op, inputs, _hint, attrs) => place(x.graph, x, inputs, op, 1, attrs)[0]!,
    constant: (data, hint) => x.graph.constant(data, `${x.name}_${hint}`),
  });
  y.graph.setType(y, x.type);
  return y;
}

function dynamicFakeQuant(x: Value): Value {
  const [q, s, z] = place(x.graph, x, [x], "DynamicQuantizeLinear", 3) as [Value, Value, Value];
  const y = place(x.graph, x, [q, s, z], "DequantizeLinear", 1)[0]!;
  y.graph.setType(y, x.type);
  return y;
}
