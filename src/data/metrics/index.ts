import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Ajv } from "ajv";
import { nearest } from "../../diagnostics/nearest.ts";
import { QcError } from "../../diagnostics.ts";
import type { Metric, Sample } from "../types.ts";
import { BOXES } from "./boxes.ts";
import { CLASSIFY } from "./classify.ts";
import { COMPARE } from "./compare.ts";
import { mean, meanInterval } from "./statistics.ts";
import { TEXT } from "./text.ts";
import { fail, type MetricContext, type MetricRow, type Outputs } from "./types.ts";

/** Every metric that a set file can name. */
export const METRICS: Readonly<Record<string, MetricRow>> = { ...CLASSIFY, ...BOXES, ...TEXT, ...COMPARE };

export type MetricConfig = string | Readonly<Record<string, unknown>>;

export function isModule(name: string): boolean {
  return /\.m?js$/.test(name);
}

/** The metric that a set file names: a row of `METRICS`, with options or without, or a module. */
export async function metricOf(config: MetricConfig, context: MetricContext): Promise<Metric> {
  const name = typeof config === "string" ? config : (Object.keys(config)[0] ?? "");
  const options = typeof config === "string" ? {} : (Object.values(config)[0] ?? {});
  if (isModule(name)) return moduleMetric(resolve(context.folder, name), options);
  const row = Object.hasOwn(METRICS, name) ? METRICS[name] : undefined;
  if (row === undefined) {
    const known = Object.keys(METRICS);
    const near = nearest(name, known);
    throw new QcError({
      code: "data/metric",
      metric: name,
      detail: "is not known",
      known,
      ...(near === undefined ? {} : { nearest: near }),
    });
  }
  const check = new Ajv({ allErrors: true, strict: false }).compile(row.schema);
  if (!check(options)) {
    const properties = Object.keys((row.schema["properties"] ?? {}) as object);
    throw new QcError(
      (check.errors ?? []).map((e) => {
        const key = (e.params as { additionalProperty?: string }).additionalProperty;
        const near = key === undefined ? undefined : nearest(key, properties);
        return {
          code: "data/metric",
          metric: name,
          detail:
            key === undefined
              ? `option "${e.instancePath.slice(1)}" ${e.message}`
              : `has no option "${key}" (it has ${properties.join(", ")})`,
          ...(near === undefined ? {} : { nearest: near }),
        } as const;
      }),
    );
  }
  return row.make(options as never, context);
}

/** True when the metric works on samples without labels. */
export function needsLabels(config: MetricConfig): boolean {
  const name = typeof config === "string" ? config : (Object.keys(config)[0] ?? "");
  return !isModule(name) && METRICS[name]?.unlabelled !== true;
}

export interface ScoreModule {
  readonly metric?: Metric | ((options: unknown) => Metric | Promise<Metric>);
  readonly score?: (outputs: Outputs, sample: Sample) => number | boolean | undefined;
  readonly name?: string;
  readonly unit?: Metric["unit"];
  readonly better?: Metric["better"];
}

/**
 * A module's own metric: `export const metric` (a `Metric`, or a function of the options that returns one), or `export function
 * score(outputs, sample)` whose mean it is (undefined: the sample does not count).
 */
async function moduleMetric(path: string, options: unknown): Promise<Metric> {
  let m: ScoreModule;
  try {
    m = (await import(pathToFileURL(path).href)) as ScoreModule;
  } catch (e) {
    throw new QcError({ code: "data/module", module: path, detail: (e as Error).message }, { cause: e });
  }
  const found = await metricFrom(m, path, options);
  if (found === undefined) throw fail(path, "it exports neither `metric` nor `score`");
  return found;
}

export async function metricFrom(m: ScoreModule, path: string, options: unknown): Promise<Metric | undefined> {
  if (m.metric !== undefined) {
    const made = typeof m.metric === "function" ? await m.metric(options) : m.metric;
    if (typeof made?.start !== "function") throw fail(path, "`metric` has no start()");
    return made;
  }
  const { score } = m;
  if (score === undefined) return undefined;
  return {
    name: m.name ?? "score",
    unit: m.unit ?? "",
    better: m.better ?? "higher",
    start() {
      const perSample: number[] = [];
      return {
        add(outputs, sample) {
          const v = score(outputs, sample);
          if (v !== undefined) perSample.push(Number(v));
        },
        result() {
          const interval = meanInterval(perSample);
          return { value: mean(perSample), n: perSample.length, perSample: [...perSample], ...(interval ? { interval } : {}) };
        },
      };
    },
  };
}
