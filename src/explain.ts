import type { Consumers, Plan, PlanBundle, Revert, Scheme, Site, StepGain, StepRecord } from "./plan/types.ts";
import { SKIP_CODES } from "./plan/types.ts";

/** Everything a plan says about one node or value, in words that a person can check. */
export interface Explanation {
  readonly sites: readonly SiteExplanation[];
  readonly skips: readonly {
    readonly node: string;
    readonly op: string;
    readonly code: string;
    readonly reason: string;
    readonly detail: string;
  }[];
  readonly replacements: readonly { readonly value: string; readonly because: string }[];
  readonly steps: readonly StepRecord[];
  /** What each kept step did for the layers and values in question. */
  readonly gains: readonly (StepGain & { readonly step: string })[];
  /** What a layer would gain from more bits: all of those in question, best gain per byte first. */
  readonly reverts: readonly Revert[];
}
export interface SiteExplanation {
  readonly value: string;
  readonly kind: Site["kind"];
  readonly scheme: string;
  /** Scale and zero point in short: one of each, or how many and from where to where. */
  readonly parameters: string;
  readonly range: string | undefined;
  readonly read: string;
  readonly because: string;
}

/** `pattern`: a node or value name or a glob over them; undefined: the whole plan. */
export function explain(bundle: PlanBundle, pattern?: string): Explanation {
  const { plan } = bundle;
  const hit = pattern === undefined ? () => true : matcher(pattern);
  const consumers = (c: Consumers) => (c === "all" ? [] : c.map((u) => u.node));
  const sites = plan.sites.filter((s) => hit(s.value) || consumers(s.consumers).some(hit));
  // A node's gains are also those of the values that it reads as codes.
  const near = new Set(sites.map((s) => s.value));
  return {
    sites: sites.map((s) => siteOf(bundle, s)),
    skips: plan.skips.filter((s) => hit(s.node) || hit(`op:${s.op}`)).map((s) => ({ ...s, reason: SKIP_CODES[s.code] })),
    replacements: plan.replacements.filter((r) => hit(r.value)).map(({ value, because }) => ({ value, because })),
    steps: pattern === undefined ? plan.steps : [],
    gains: plan.steps.flatMap(({ step, gains }) => (gains ?? []).filter((g) => hit(g.at) || near.has(g.at)).map((g) => ({ step, ...g }))),
    reverts: plan.reverts.filter((r) => hit(r.node)),
  };
}

/** Names that a pattern could have meant. */
export function namesIn(plan: Plan): readonly string[] {
  const names = new Set<string>();
  for (const s of plan.sites) {
    names.add(s.value);
    if (s.consumers !== "all") for (const c of s.consumers) names.add(c.node);
  }
  for (const s of plan.skips) names.add(s.node);
  return [...names];
}

/** `*` stands for anything, slashes included; a plain name for itself. */
function matcher(pattern: string): (name: string) => boolean {
  if (!pattern.includes("*") && !pattern.includes("?")) return (name) => name === pattern;
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replace(/\*/g, ".*")
    .replace(/\?/g, ".");
  const re = new RegExp(`^${source}$`, "s");
  return (name) => re.test(name);
}

export function printScheme(s: Scheme): string {
  const g = s.granularity;
  const per = g.kind === "tensor" ? "tensor" : g.kind === "channel" ? `channel (axis ${g.axis})` : `block of ${g.size} (axis ${g.axis})`;
  return `${s.dtype} per ${per}, ${s.symmetric ? "symmetric" : "asymmetric"}${s.narrow ? ", narrow" : ""}`;
}

function siteOf(bundle: PlanBundle, s: Site): SiteExplanation {
  const head = {
    value: s.value,
    kind: s.kind,
    scheme: printScheme(s.scheme),
    read: s.consumers === "all" ? "every consumer" : s.consumers.map((c) => `${c.node} (input ${c.input})`).join(", "),
    because: s.because,
  };
  if (s.kind !== "static" && s.kind !== "weight")
    return {
      ...head,
      parameters: s.kind === "dynamic" ? `computed while running${s.per ? `, for each ${s.per}` : ""}` : "none",
      range: undefined,
    };
  const numbers = (n: typeof s.scale): ArrayLike<number> => {
    if (!("tensor" in n)) return n;
    const b = bundle.tensors.get(n.tensor)!.bytes().slice();
    return n.tensor.endsWith("zero_point") ? new Int32Array(b.buffer) : new Float32Array(b.buffer);
  };
  const text = (x: ArrayLike<number>, print: (v: number) => string) => {
    if (x.length === 1) return print(x[0]!);
    let lo = Infinity;
    let hi = -Infinity;
    for (let i = 0; i < x.length; i++) {
      lo = Math.min(lo, x[i]!);
      hi = Math.max(hi, x[i]!);
    }
    return `${x.length} from ${print(lo)} to ${print(hi)}`;
  };
  const range = s.kind === "static" ? s.range : undefined;
  return {
    ...head,
    parameters: `scale ${text(numbers(s.scale), (v) => v.toPrecision(5))}, zero point ${text(numbers(s.zeroPoint), String)}${s.kind === "weight" && s.codes ? ", codes learned" : ""}`,
    range: range === undefined ? undefined : `${range.min.toPrecision(5)} to ${range.max.toPrecision(5)}`,
  };
}
