import type { DataSet } from "../data/types.ts";
import type { Report } from "../diagnostics.ts";
import type { Model } from "../graph/ir.ts";
import type { ValueType } from "../graph/types.ts";
import type { OptLevel, Runtime, SessionOptions } from "../runtime/types.ts";
import { compareModels, type Runnable } from "./compare.ts";
import { measureLatency } from "./latency.ts";

export { measureLatency };

import { compareLayers } from "./layers.ts";
import type { Latency, LayerError, LevelReport, Verdict } from "./types.ts";

export type { Runnable } from "./compare.ts";
export type * from "./types.ts";

export interface VerifyOptions {
  readonly runtime: Runtime;
  /** The source model as it lies there: preparing it is verified too. */
  readonly float: Runnable;
  readonly quantized: Runnable;
  /** The graphs behind the per-layer table; without them there is none. */
  readonly graphs?: {
    readonly float: Model;
    readonly quantized: Model;
    readonly types: ReadonlyMap<string, ValueType>;
    readonly skipped: ReadonlySet<string>;
  };
  readonly data: DataSet;
  /** Held-out samples, in the order in which they are run. */
  readonly indices: readonly number[];
  readonly layerSamples: number;
  /** Samples that run at the reference level too; default all. */
  readonly referenceSamples?: number;
  readonly latencyRounds: number;
  /** The level at which the model will be deployed; `disabled`, the reference arithmetic, is always run as well. */
  readonly deployed: OptLevel;
  readonly session?: Pick<SessionOptions, "threads" | "provider" | "state">;
  readonly report: Report;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

export interface Verified {
  readonly verdict: Verdict;
  readonly why: readonly string[];
  readonly n: number;
  readonly levels: readonly LevelReport[];
  readonly layers: { readonly n: number; readonly rows: readonly LayerError[] };
  readonly latency?: Latency;
}

/** Below this an output holds a third as much noise as signal: whatever the task is, someone should look. */
const SUSPECT_DB = 5;
/** An optimizer that doubles the noise (3 dB) changes the model; integer kernels differ by a code here and there, which costs tenths. */
const OPTIMIZER_DB = 3;
/** Above this, noise is so small that doubling it is rounding. */
const CLEAN_DB = 40;

/** Runs the float and the quantized model over held-out samples and says what quantizing cost. Never uses calibrate or select samples. */
export async function verify(o: VerifyOptions): Promise<Verified> {
  const levels: readonly OptLevel[] = o.deployed === "disabled" ? ["disabled"] : ["disabled", o.deployed];
  const compared = await compareModels({ ...o, levels });
  const released = [compared.float, ...compared.quantized];
  try {
    // Sessions of the comparison first: timing opens its own, and both would not fit where one does.
    await Promise.all(released.splice(0).map((s) => s.release()));
    const latency =
      o.latencyRounds > 0 && compared.first !== undefined && o.session?.state === undefined
        ? await measureLatency({
            float: o.float,
            quantized: o.quantized,
            feeds: [compared.first.feeds],
            rounds: o.latencyRounds,
            session: { ...o.session, level: o.deployed },
            signal: o.signal,
          })
        : undefined;
    const chosen = o.indices.slice(0, o.layerSamples);
    const layers =
      o.graphs === undefined
        ? []
        : await compareLayers({ ...o.graphs, runtime: o.runtime, data: o.data, indices: chosen, signal: o.signal, ...sessionOf(o) });
    return {
      ...judge(compared.levels, o.report, compared.common),
      n: o.indices.length,
      levels: compared.levels,
      layers: { n: layers.length > 0 ? chosen.length : 0, rows: layers },
      ...(latency === undefined ? {} : { latency }),
    };
  } finally {
    await Promise.allSettled(released.map((s) => s.release()));
  }
}

function sessionOf(o: VerifyOptions) {
  const folder = o.float.externalFolder;
  return { session: { ...o.session, ...(folder === undefined ? {} : { externalFolder: folder }) } };
}

/** Findings as diagnostics, and the verdict that they add up to. `common`: the deployed level on the samples of the reference. */
export function judge(
  levels: readonly LevelReport[],
  report: Report,
  common?: LevelReport,
): { readonly verdict: Verdict; readonly why: readonly string[] } {
  const why: string[] = [];
  const [reference, deployed] = [levels[0]!, common ?? levels.at(-1)!];
  for (const out of reference.outputs) {
    const there = deployed.outputs.find((x) => x.name === out.name)!;
    const whole = levels.at(-1)!.outputs.find((x) => x.name === out.name)!;
    const worse = whole.sqnrDb < out.sqnrDb ? whole : out;
    if (out.sqnrDb - there.sqnrDb > OPTIMIZER_DB && there.sqnrDb < CLEAN_DB) {
      report({ code: "check/optimizer-breaks", reference: out.sqnrDb, deployed: there.sqnrDb, level: deployed.level });
      why.push(`output "${out.name}" loses ${(out.sqnrDb - there.sqnrDb).toFixed(1)} dB at level ${deployed.level}`);
    } else if (worse.sqnrDb < SUSPECT_DB) {
      report({ code: "check/output-lost", output: out.name, sqnr: worse.sqnrDb, n: worse.n });
      why.push(`output "${out.name}" is at ${worse.sqnrDb.toFixed(1)} dB`);
    }
    const nonFinite = Math.max(out.nonFinite, whole.nonFinite);
    if (nonFinite > 0) why.push(`output "${out.name}" has ${nonFinite} elements that are not finite`);
  }
  return { verdict: why.length > 0 ? "suspect" : "ok", why };
}
