import type { Feeds, OptLevel, Session } from "../runtime/types.ts";
import { quantileOf } from "./statistics.ts";
import type { Latency, Milliseconds } from "./types.ts";

/** Runs before the first that counts: memory planning and caches. */
const WARM_UP = 3;
/** A round lasts at least this long on each side, so that timer noise is small against it. */
const ROUND_MS = 2;

/**
 * Both models in turn, one short round each, so that whatever else the machine does falls on both. The ratio is the median over rounds
 * of the ratio within a round.
 */
export async function measureLatency(o: {
  readonly float: Session;
  readonly quantized: Session;
  readonly feeds: Feeds;
  readonly rounds: number;
  readonly level: OptLevel;
  readonly threads: number;
  readonly signal?: AbortSignal | undefined;
}): Promise<Latency> {
  const warm = await Promise.all([o.float.time(o.feeds, WARM_UP), o.quantized.time(o.feeds, WARM_UP)]);
  const slowest = Math.max(...warm.map((w) => w.at(-1)!));
  const repeats = Math.max(1, Math.min(50, Math.ceil(ROUND_MS / slowest)));
  const float: number[] = [];
  const quantized: number[] = [];
  for (let r = 0; r < o.rounds; r++) {
    o.signal?.throwIfAborted();
    // Who goes first alternates: the second finds warmer or fuller caches.
    const sides = r % 2 === 0 ? ([float, quantized] as const) : ([quantized, float] as const);
    for (const side of sides) {
      const ms = await (side === float ? o.float : o.quantized).time(o.feeds, repeats);
      side.push(
        quantileOf(
          [...ms].sort((a, b) => a - b),
          0.5,
        ),
      );
    }
  }
  const ratios = float.map((f, i) => quantized[i]! / f).sort((a, b) => a - b);
  return {
    level: o.level,
    threads: o.threads,
    rounds: o.rounds,
    float: summary(float),
    quantized: summary(quantized),
    ratio: quantileOf(ratios, 0.5),
  };
}

function summary(ms: readonly number[]): Milliseconds {
  const s = [...ms].sort((a, b) => a - b);
  return { medianMs: quantileOf(s, 0.5), p10Ms: quantileOf(s, 0.1), p90Ms: quantileOf(s, 0.9) };
}
