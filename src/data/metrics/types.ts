import { QcError } from "../../diagnostics.ts";
import type { Tensor } from "../../runtime/types.ts";
import { numbers } from "../item.ts";
import type { Metric, Sample } from "../types.ts";

export type Outputs = Readonly<Record<string, Tensor>>;

/** One metric that a set file can name: the JSON schema of its options, and what makes it. */
export interface MetricRow {
  readonly schema: Readonly<Record<string, unknown>>;
  readonly help: string;
  /** Works without labels. */
  readonly unlabelled?: true;
  make(options: never, context: MetricContext): Metric | Promise<Metric>;
}
export interface MetricContext {
  /** Folder of the set file, for modules. */
  readonly folder: string;
}

export function fail(metric: string, detail: string): QcError {
  return new QcError({ code: "data/metric", metric, detail });
}

/** The output that is named, or the graph's first. */
export function outputOf(metric: string, outputs: Outputs, name: string | undefined): Tensor {
  const t = name === undefined ? Object.values(outputs)[0] : outputs[name];
  if (t === undefined)
    throw fail(metric, `the model has no output ${name === undefined ? "" : `"${name}"; it has ${Object.keys(outputs).join(", ")}`}`);
  return t;
}

/** [rows, columns] by the last axis. */
export function rowsOf(t: Tensor): { readonly rows: number; readonly columns: number; readonly x: ReturnType<typeof numbers> } {
  const columns = t.dims.length === 0 ? 1 : t.dims[t.dims.length - 1]!;
  const x = numbers(t);
  return { rows: columns === 0 ? 0 : x.length / columns, columns, x };
}

/** Class indices of a sample, one per row of its output. */
export function classesOf(metric: string, sample: Sample, rows: number): ArrayLike<number> {
  const l = sample.label;
  if (typeof l === "number") return rows === 1 ? [l] : new Array<number>(rows).fill(l);
  if (l !== undefined && typeof l === "object" && "data" in l) {
    const x = numbers(l);
    if (x.length === rows) return x;
    throw fail(metric, `sample "${sample.id}" has ${x.length} labels for ${rows} rows of output`);
  }
  if (Array.isArray(l) && l.length === rows && l.every((v) => typeof v === "number")) return l as readonly number[];
  throw fail(
    metric,
    `sample "${sample.id}" has no class index as label (${l === undefined ? "none" : typeof l}); name classes with \`classes:\``,
  );
}

export function tensorLabel(metric: string, sample: Sample): Tensor {
  const l = sample.label;
  if (l !== undefined && typeof l === "object" && "data" in l) return l;
  throw fail(metric, `sample "${sample.id}" has no array as label`);
}

/** Index of the largest element, the first of equals. */
export function argmax(x: ArrayLike<number>, from: number, count: number): number {
  let best = 0;
  for (let i = 1; i < count; i++) if (x[from + i]! > x[from + best]!) best = i;
  return best;
}
export const OUTPUT = { output: { type: "string", description: "default: the first" } } as const;

/** A value worked out once for each set of outputs: comparisons add the same outputs to many states. */
export function memo<T>(f: (outputs: Outputs, sample: Sample) => T): (outputs: Outputs, sample: Sample) => T {
  const seen = new WeakMap<Outputs, T>();
  return (outputs, sample) => {
    if (seen.has(outputs)) return seen.get(outputs)!;
    const v = f(outputs, sample);
    seen.set(outputs, v);
    return v;
  };
}
