import { isDeepStrictEqualJson } from "./equal.ts";
import type { Plan, PlanBundle, Site, Skip } from "./types.ts";

/** One difference between two plans. */
export interface Difference {
  readonly kind: "added" | "removed" | "changed";
  /** "site", "skip", "replacement", "insertion", or a field of the head. */
  readonly what: string;
  readonly at: string;
  readonly detail: string;
}

/** What changed from `a` to `b`: head fields, sites (by value and consumers), skips (by node), replacements, insertions. */
export function diffPlans(a: PlanBundle, b: PlanBundle): Difference[] {
  const out: Difference[] = [];
  const heads: (keyof Plan)[] = [
    "tool",
    "model",
    "prepare",
    "target",
    "recipe",
    "calibrator",
    "seed",
    "opset",
    "irVersion",
    "stats",
    "schemes",
  ];
  for (const k of heads) {
    if (isDeepStrictEqualJson(a.plan[k], b.plan[k])) continue;
    out.push({
      kind: "changed",
      what: k,
      at: k,
      detail: `${JSON.stringify(a.plan[k]) ?? "none"} -> ${JSON.stringify(b.plan[k]) ?? "none"}`,
    });
  }
  const list = <T>(
    what: string,
    of: (p: Plan) => readonly T[],
    key: (x: T) => string,
    detail: (x: T, y: T) => string,
    name: (x: T) => string,
  ): void => {
    const before = new Map(of(a.plan).map((x) => [key(x), x]));
    const after = new Map(of(b.plan).map((x) => [key(x), x]));
    for (const [k, x] of before) {
      const y = after.get(k);
      if (y === undefined) out.push({ kind: "removed", what, at: name(x), detail: "" });
      else {
        const d = detail(x, y);
        if (d !== "") out.push({ kind: "changed", what, at: name(x), detail: d });
      }
    }
    for (const [k, y] of after) if (!before.has(k)) out.push({ kind: "added", what, at: name(y), detail: "" });
  };
  list(
    "site",
    (p) => p.sites,
    siteKey,
    (x, y) => siteDetail(a, x, b, y),
    (s) => s.value,
  );
  list(
    "skip",
    (p) => p.skips,
    (s) => s.node,
    (x: Skip, y: Skip) => (x.code === y.code ? "" : `${x.code} -> ${y.code}`),
    (s) => s.node,
  );
  list(
    "replacement",
    (p) => p.replacements,
    (r) => r.value,
    (x, y) => tensorDetail(a, x.tensor.tensor, b, y.tensor.tensor),
    (r) => r.value,
  );
  list(
    "insertion",
    (p) => p.insertions,
    (r) => r.value + JSON.stringify(r.consumers),
    (x, y) => tensorDetail(a, x.by.tensor, b, y.by.tensor),
    (r) => r.value,
  );
  return out;
}

const siteKey = (s: Site): string => `${s.kind === "weight"}|${s.value}|${JSON.stringify(s.consumers)}`;

function siteDetail(a: PlanBundle, x: Site, b: PlanBundle, y: Site): string {
  const parts: string[] = [];
  if (x.kind !== y.kind) parts.push(`${x.kind} -> ${y.kind}`);
  if (!isDeepStrictEqualJson(x.scheme, y.scheme)) parts.push(`${JSON.stringify(x.scheme)} -> ${JSON.stringify(y.scheme)}`);
  if ((x.kind === "static" || x.kind === "weight") && (y.kind === "static" || y.kind === "weight")) {
    for (const k of ["scale", "zeroPoint"] as const) {
      const [p, q] = [x[k], y[k]];
      if ("tensor" in p && "tensor" in q) {
        const d = tensorDetail(a, p.tensor, b, q.tensor);
        if (d !== "") parts.push(`${k}: ${d}`);
      } else if (!isDeepStrictEqualJson(p, q)) parts.push(`${k}: ${JSON.stringify(p)} -> ${JSON.stringify(q)}`);
    }
  }
  if (x.kind === "weight" && y.kind === "weight") {
    if ((x.form ?? "qdq") !== (y.form ?? "qdq")) parts.push(`form: ${x.form ?? "qdq"} -> ${y.form ?? "qdq"}`);
    if (!!x.codes !== !!y.codes) parts.push(x.codes ? "codes: learned -> nearest" : "codes: nearest -> learned");
    else if (x.codes && y.codes) {
      const d = tensorDetail(a, x.codes.tensor, b, y.codes.tensor);
      if (d !== "") parts.push(`codes: ${d}`);
    }
  }
  return parts.join("; ");
}

function tensorDetail(a: PlanBundle, x: string, b: PlanBundle, y: string): string {
  const [p, q] = [a.tensors.get(x), b.tensors.get(y)];
  if (!p || !q) return p === q ? "" : "a tensor is missing";
  if (p.dtype !== q.dtype || String(p.shape) !== String(q.shape)) return `${p.dtype}[${p.shape}] -> ${q.dtype}[${q.shape}]`;
  const [m, n] = [p.bytes(), q.bytes()];
  let differ = 0;
  for (let i = 0; i < m.length; i++) if (m[i] !== n[i]) differ++;
  return differ === 0 ? "" : `${differ} of ${m.length} bytes differ`;
}
