import { compareRuns, type MetricRun } from "../statistics.ts";
import type { MetricComparison, OutputError } from "../types.ts";
import type { Attacked } from "./attack.ts";
import type { Gate, Rule, Severity, SliceRule } from "./config.ts";
import { type Decided, decide, type Limits, metricChange, pairedRatio, type Ratio, unpairedRatio } from "./decide.ts";
import type { ScoreRecord } from "./record.ts";

export { type Attacked, attackModels } from "./attack.ts";
export { DEFAULT_GATE, GATE_SCHEMA, type Gate, parseGate, type Severity } from "./config.ts";
export { formatGithub, formatJunit, formatMarkdown } from "./format.ts";
export { type Scored, type ScoreRecord, scoreModels } from "./record.ts";

/** One side of a comparison: measured now, or read from a baseline. */
export interface Side {
  readonly sizeBytes: number;
  readonly score?: ScoreRecord;
  /** Milliseconds per round; of both sides in turn when `paired`. */
  readonly latency?: readonly number[];
  readonly throughput?: readonly number[];
  readonly memoryBytes?: number;
}
export interface GateInput {
  readonly gate: Gate;
  readonly reference: Side;
  readonly candidate: Side;
  readonly metric?: Pick<MetricComparison, "name" | "unit" | "better">;
  readonly ids: readonly string[];
  /** Live comparisons only. */
  readonly outputs: readonly OutputError[];
  /** Rounds were taken in turn. */
  readonly paired: boolean;
  /** Why times are not compared, when they are not. */
  readonly noTimes?: string;
  /** Share of the device that was busy, or why nobody knows. */
  readonly utilization?: number | string;
  readonly attack?: Attacked;
}

export interface Finding {
  /** What was judged: `accuracy`, `class 3`, `latency`. */
  readonly check: string;
  readonly severity: Severity;
  readonly outcome: "pass" | "fail" | "undecided" | "shown" | "skipped";
  readonly reference?: number;
  readonly candidate?: number;
  readonly unit: string;
  /** Change in the bad direction: share of the reference, or points. */
  readonly change?: number;
  readonly low?: number;
  readonly high?: number;
  readonly limit?: string;
  readonly n?: number;
  /** Samples or rounds for the stated error rates. */
  readonly need?: number;
  readonly note: string;
}

export interface Judged {
  readonly findings: readonly Finding[];
  readonly failed: readonly Finding[];
  /** The whole set's metric, with the samples that changed. */
  readonly metric?: MetricComparison;
}

export function judgeGate(o: GateInput): Judged {
  const findings: Finding[] = [];
  const metric = accuracy(o, findings);
  slices(o, findings);
  agreement(o, findings);
  attack(o, findings);
  size(o, findings);
  times(o, findings);
  memory(o, findings);
  utilization(o, findings);
  const failed = findings.filter((f) => isFailure(f, o.gate));
  return { findings, failed, ...(metric === undefined ? {} : { metric }) };
}

/** P0 and P1 end the command with exit code 3. */
export function isFailure(f: Finding, gate: Gate): boolean {
  if (f.severity === "P2") return false;
  return f.outcome === "fail" || (f.outcome === "undecided" && gate.undecided === "fail");
}

function accuracy(o: GateInput, out: Finding[]): MetricComparison | undefined {
  const [a, b] = [o.reference.score?.metric, o.candidate.score?.metric];
  const rule = o.gate.accuracy;
  if (o.metric === undefined || a === undefined || b === undefined) {
    if (rule !== undefined)
      out.push(
        skipped(
          "accuracy",
          rule.severity,
          o.candidate.score === undefined
            ? "no held-out sample was run: give --data with samples for that role"
            : "the set has no metric: name labels and a metric in its set file",
        ),
      );
    return undefined;
  }
  const m = compareRuns(o.metric, a, b, o.ids);
  out.push(metricFinding("accuracy", m, rule, o.gate.alpha));
  return m;
}

function metricFinding(check: string, m: MetricComparison, rule: Rule | undefined, alpha: number): Finding {
  const points = metricChange(m, alpha);
  const scale = rule?.unit === "points" ? 1 : Math.abs(m.float.value);
  const head = {
    check: check === "accuracy" ? `accuracy (${m.name})` : check,
    reference: m.float.value,
    candidate: m.quantized.value,
    unit: m.unit,
    n: m.n,
  };
  if (!(scale > 0) || !Number.isFinite(points.change))
    return {
      ...head,
      severity: rule?.severity ?? "P2",
      outcome: "skipped",
      note: "the reference's metric is 0 or no number: no share of it can be taken",
    };
  const e = { change: points.change / scale, low: points.low / scale, high: points.high / scale };
  const flips = m.flips === undefined ? "" : `${m.flips.lost} samples lost, ${m.flips.won} won`;
  return judged(head, e, rule, alpha, m.n, flips, "samples");
}

function judged(
  head: Pick<Finding, "check" | "reference" | "candidate" | "unit" | "n">,
  e: { readonly change: number; readonly low: number; readonly high: number },
  rule: Rule | undefined,
  alpha: number,
  n: number,
  note: string,
  what: "samples" | "rounds",
): Finding {
  if (rule === undefined) return { ...head, ...e, severity: "P2", outcome: "shown", note };
  const limits: Limits = { ...rule, alpha };
  const d: Decided = decide(e, limits, n);
  const form = (x: number) => (rule.unit === "points" ? `${round(x)} points` : `${round(100 * x)} %`);
  const words = {
    pass: "",
    fail: `worse by ${form(d.change)}, more than ${form(rule.most)}`,
    undecided: `cannot be told from ${n} ${what}: somewhere between ${form(d.low)} and ${form(d.high)} worse${d.need === undefined ? "" : `; about ${d.need} ${what} would tell`}`,
  }[d.outcome];
  const { outcome, need } = d;
  return {
    ...head,
    ...e,
    severity: rule.severity,
    outcome,
    limit: form(rule.most),
    ...(need === undefined ? {} : { need }),
    note: [words, note].filter((x) => x !== "").join("; "),
  };
}
const round = (x: number) => (Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2));

/** Every class and group; with k of them each is judged at alpha / k, so that all together err no more often than one (Bonferroni). */
function slices(o: GateInput, out: Finding[]): void {
  const { metric } = o;
  if (metric === undefined) return;
  for (const kind of ["classes", "groups"] as const) {
    const pairs = Object.entries(o.reference.score?.[kind] ?? {}).flatMap(([name, a]) => {
      const b: MetricRun | undefined = o.candidate.score?.[kind][name];
      return b === undefined || !Number.isFinite(a.value) || !Number.isFinite(b.value) ? [] : [{ name, a, b }];
    });
    const ruleOf = (name: string): SliceRule | undefined => o.gate.slices[name] ?? o.gate[kind];
    const counted = pairs.filter(({ name, a }) => a.n >= (ruleOf(name)?.least ?? Infinity) && a.value !== 0).length;
    for (const { name, a, b } of pairs) {
      const rule = ruleOf(name);
      const judgedHere = rule !== undefined && a.n >= rule.least;
      const check = `${kind === "classes" ? "class" : "group"} ${name}`;
      const f = metricFinding(check, compareRuns(metric, a, b), judgedHere ? rule : undefined, o.gate.alpha / Math.max(1, counted));
      // A slice alone is small: what cannot be told there is told by the whole, so it is shown and blocks nothing.
      const outcome = f.outcome === "undecided" ? "shown" : f.outcome;
      out.push({ ...f, outcome, note: judgedHere || rule === undefined ? f.note : `fewer than ${rule.least} samples: not judged` });
    }
  }
}

function agreement(o: GateInput, out: Finding[]): void {
  const [a, b] = [o.reference.score?.tops ?? [], o.candidate.score?.tops ?? []];
  if (a.length > 0 && a.length === b.length) {
    const rate = a.filter((v, i) => v === b[i]).length / a.length;
    out.push(floor("agreement", rate, "same class", a.length, o.gate.agreement, (x) => `${(100 * x).toFixed(1)} %`));
  } else if (o.gate.agreement !== undefined) out.push(skipped("agreement", o.gate.agreement.severity, "no output scores classes"));
  const worst = o.outputs.length === 0 ? undefined : o.outputs.reduce((x, y) => (y.sqnrDb < x.sqnrDb ? y : x));
  if (worst !== undefined)
    out.push(floor("sqnr", worst.sqnrDb, `output "${worst.name}"`, worst.n, o.gate.sqnr, (x) => `${x.toFixed(1)} dB`));
}

/** The same changed samples for both; what the change did is said beside it. */
function attack({ attack: a, gate }: GateInput, out: Finding[]): void {
  if (a === undefined) return;
  const f = metricFinding(`attack ${a.kind} (${a.attacked.name})`, a.attacked, gate.attack, gate.alpha);
  const unit = a.clean.unit === "" ? "" : ` ${a.clean.unit}`;
  const clean = `epsilon ${a.epsilon} of the range; without the attack ${a.clean.float.value.toFixed(2)} and ${a.clean.quantized.value.toFixed(2)}${unit}`;
  out.push({ ...f, note: [f.note, clean].filter((x) => x !== "").join("; ") });
}

function floor(
  check: string,
  value: number,
  note: string,
  n: number,
  rule: { readonly least: number; readonly severity: Severity } | undefined,
  form: (x: number) => string,
): Finding {
  const head = { check, candidate: value, unit: check === "sqnr" ? "dB" : "share", n };
  if (rule === undefined) return { ...head, severity: "P2", outcome: "shown", note };
  const fail = !(value >= rule.least);
  return {
    ...head,
    severity: rule.severity,
    outcome: fail ? "fail" : "pass",
    limit: `at least ${form(rule.least)}`,
    note: fail ? `${form(value)} (${note}), less than ${form(rule.least)}` : note,
  };
}

function size(o: GateInput, out: Finding[]): void {
  const [a, b] = [o.reference.sizeBytes, o.candidate.sizeBytes];
  out.push(exact("size", a, b, o.gate.size));
}
function memory(o: GateInput, out: Finding[]): void {
  const [a, b] = [o.reference.memoryBytes, o.candidate.memoryBytes];
  if (a !== undefined && b !== undefined) out.push(exact("memory", a, b, o.gate.memory));
  else if (o.gate.memory !== undefined) out.push(skipped("memory", o.gate.memory.severity, "peak memory was not measured"));
}
/** Bytes carry no noise worth a test. */
function exact(check: string, a: number, b: number, rule: Rule | undefined): Finding {
  const change = b / a - 1;
  const head = { check, reference: a, candidate: b, unit: "bytes", change };
  if (rule === undefined) return { ...head, severity: "P2", outcome: "shown", note: "" };
  const fail = change > rule.most;
  const limit = `${round(100 * rule.most)} %`;
  return {
    ...head,
    severity: rule.severity,
    outcome: fail ? "fail" : "pass",
    limit,
    note: fail ? `larger by ${round(100 * change)} %, more than ${limit}` : "",
  };
}

function times(o: GateInput, out: Finding[]): void {
  for (const [check, unit, worse] of [
    ["latency", "ms", 1],
    ["throughput", "/s", -1],
  ] as const) {
    const rule = o.gate[check];
    const [a, b] = [o.reference[check], o.candidate[check]];
    if (a === undefined || b === undefined || a.length === 0 || b.length === 0) {
      if (rule !== undefined) out.push(skipped(check, rule.severity, o.noTimes ?? "it was not measured"));
      continue;
    }
    const r = o.paired ? pairedRatio(a, b, o.gate.alpha) : unpairedRatio(a, b, o.gate.alpha);
    const head = { check, reference: medianOf(a), candidate: medianOf(b), unit, n: b.length };
    out.push(judged(head, lossOf(r, worse), rule, o.gate.alpha, b.length, `ratio ${r.ratio.toFixed(3)}`, "rounds"));
  }
}
/** Growth of a time, or loss of a rate, as a share of the reference. */
function lossOf(r: Ratio, worse: 1 | -1) {
  return worse > 0 ? { change: r.ratio - 1, low: r.low - 1, high: r.high - 1 } : { change: 1 - r.ratio, low: 1 - r.high, high: 1 - r.low };
}
function medianOf(x: readonly number[]): number {
  const s = [...x].sort((a, b) => a - b);
  return (s[(s.length - 1) >> 1]! + s[s.length >> 1]!) / 2;
}

function utilization(o: GateInput, out: Finding[]): void {
  const rule = o.gate.utilization;
  if (rule === undefined || o.utilization === undefined) return;
  if (typeof o.utilization === "string") {
    out.push(skipped("utilization", rule.severity, o.utilization));
    return;
  }
  const fail = o.utilization > rule.most;
  out.push({
    check: "utilization",
    severity: rule.severity,
    outcome: fail ? "fail" : "pass",
    candidate: o.utilization,
    unit: "share",
    limit: `${round(100 * rule.most)} %`,
    note: fail ? `the device was ${round(100 * o.utilization)} % busy while times were taken: others run there too` : "",
  });
}

function skipped(check: string, severity: Severity, note: string): Finding {
  return { check, severity, outcome: "skipped", unit: "", note };
}
