import type { Feeds, SessionOptions } from "../runtime/types.ts";
import type { Runnable } from "./compare.ts";
import { pairedRatio } from "./gate/decide.ts";
import { timeModels } from "./gate/timing.ts";
import { quantileOf } from "./statistics.ts";
import type { Latency, Milliseconds } from "./types.ts";

/** Each bound of a two-sided 95 % interval. */
const ALPHA = 0.025;

/** Both models in turn in one thread, as the gate times them (`gate/timing.ts` says why), and the ratio as the gate estimates it. */
export async function measureLatency(o: {
  readonly float: Runnable;
  readonly quantized: Runnable;
  readonly feeds: readonly Feeds[];
  readonly rounds: number;
  readonly session: SessionOptions;
  readonly signal?: AbortSignal | undefined;
}): Promise<Latency> {
  const models = [o.float, o.quantized].map((r) => ({
    label: r.label,
    model: r.model,
    options: { ...o.session, label: r.label, ...(r.externalFolder === undefined ? {} : { externalFolder: r.externalFolder }) },
  }));
  const [float, quantized] = (await timeModels(models, o.feeds, o.rounds, o.signal)).map((t) => t.rounds) as [number[], number[]];
  const { ratio, low, high } = pairedRatio(float, quantized, ALPHA);
  return {
    level: o.session.level ?? "disabled",
    threads: o.session.threads ?? 1,
    rounds: o.rounds,
    float: summary(float),
    quantized: summary(quantized),
    ratio,
    // Few rounds that drift together bound nothing.
    ...(Number.isFinite(high) ? { interval: [low, high] as const } : {}),
  };
}

function summary(ms: readonly number[]): Milliseconds {
  const s = [...ms].sort((a, b) => a - b);
  return { medianMs: quantileOf(s, 0.5), p10Ms: quantileOf(s, 0.1), p90Ms: quantileOf(s, 0.9) };
}
