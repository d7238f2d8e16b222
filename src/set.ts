import { openData } from "./data/index.ts";
import type { DataSet, Role } from "./data/types.ts";
import { QcError } from "./diagnostics.ts";
import type { Model } from "./graph/ir.ts";
import type { Job } from "./job.ts";
import type { SessionOptions } from "./runtime/types.ts";
import { inputsOf } from "./source.ts";

/** Opens what `--data` names for this model; undefined when nothing was named. A set without calibrate samples is of no use here. */
export async function openSet(
  job: Job,
  model: Model,
  o: { readonly data?: string | undefined; readonly seed: number },
): Promise<DataSet | undefined> {
  if (o.data === undefined) return undefined;
  const data = await openData(o.data, inputsOf(model), { seed: o.seed, report: job.report });
  if (data.roles.calibrate.length === 0) throw new QcError({ code: "data/empty", set: data.name, role: "calibrate" });
  return data;
}

/** The first `n` samples of a role: roles are in an order of which every prefix is a stratified draw. */
export function drawSamples(data: DataSet, role: Role, n: number): readonly number[] {
  return data.roles[role].slice(0, n);
}

/** How sessions run everywhere in a run: one thread each, so that float sums do not depend on the machine; workers run side by side. */
export function sessionOf(
  data: DataSet | undefined,
  o: { readonly provider: string },
): Pick<SessionOptions, "threads" | "provider" | "state"> {
  const state = data?.state;
  return { threads: 1, provider: o.provider as "cpu" | "cuda" | "webgpu", ...(state === undefined ? {} : { state }) };
}
