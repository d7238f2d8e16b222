import { createRuntime } from "../../runtime/index.ts";
import type { Feeds, Session, SessionOptions } from "../../runtime/types.ts";
import { quantileOf } from "../statistics.ts";

/** Runs before the first that counts: memory planning and caches. */
const WARM_UP = 3;
/** A round lasts at least this long on each side, so that timer noise is small against it. */
const ROUND_MS = 2;
const MOST_REPEATS = 50;

export interface Timed {
  readonly label: string;
  /** Milliseconds of one run: the median within each round. */
  readonly rounds: readonly number[];
  /** Every run that was timed, for percentiles. */
  readonly all: readonly number[];
}

/**
 * All models in turn within each round, the order turning with the round, so that whatever else the machine does falls on all of them.
 * Round r feeds sample r mod n to every model.
 */
export async function timeInTurn(
  sessions: readonly { readonly label: string; readonly session: Session }[],
  feeds: readonly Feeds[],
  rounds: number,
  signal?: AbortSignal,
): Promise<readonly Timed[]> {
  const warm = await Promise.all(sessions.map((s) => s.session.time(feeds[0]!, WARM_UP)));
  const slowest = Math.max(...warm.map((w) => w.at(-1)!));
  const repeats = Math.max(1, Math.min(MOST_REPEATS, Math.ceil(ROUND_MS / slowest)));
  const out = sessions.map(() => ({ rounds: [] as number[], all: [] as number[] }));
  for (let r = 0; r < rounds; r++) {
    signal?.throwIfAborted();
    for (let k = 0; k < sessions.length; k++) {
      const i = (k + r) % sessions.length;
      const ms = await sessions[i]!.session.time(feeds[r % feeds.length]!, repeats);
      out[i]!.rounds.push(medianOf(ms));
      out[i]!.all.push(...ms);
    }
  }
  return sessions.map((s, i) => ({ label: s.label, ...out[i]! }));
}

/**
 * Times models in turn in one thread of their own. Two threads may lie on cores of which one is busy for longer than a comparison lasts:
 * then one model is slower in every round, and no statistics over rounds can tell that from a slower model.
 */
export async function timeModels(
  models: readonly { readonly label: string; readonly model: string | Uint8Array; readonly options: SessionOptions }[],
  feeds: readonly Feeds[],
  rounds: number,
  signal?: AbortSignal,
): Promise<readonly Timed[]> {
  const runtime = createRuntime({ workers: 1, ...(signal === undefined ? {} : { signal }) });
  try {
    const sessions: { label: string; session: Session }[] = [];
    for (const { label, model, options } of models) sessions.push({ label, session: await runtime.open(model, options) });
    return await timeInTurn(sessions, feeds, rounds, signal);
  } finally {
    await runtime.close();
  }
}

/** Runs a second with every session of a pool busy; pools in turn within each round. */
export async function throughputInTurn(
  pools: readonly (readonly Session[])[],
  feeds: readonly Feeds[],
  rounds: number,
  signal?: AbortSignal,
): Promise<readonly (readonly number[])[]> {
  const out = pools.map(() => [] as number[]);
  const repeats = await Promise.all(
    pools.map(async (p) => {
      const ms = await p[0]!.time(feeds[0]!, WARM_UP);
      return Math.max(2, Math.min(MOST_REPEATS, Math.ceil((5 * ROUND_MS) / ms.at(-1)!)));
    }),
  );
  for (let r = 0; r < rounds; r++) {
    signal?.throwIfAborted();
    for (let k = 0; k < pools.length; k++) {
      const i = (k + r) % pools.length;
      const n = repeats[i]!;
      const start = performance.now();
      await Promise.all(pools[i]!.map((s) => s.time(feeds[r % feeds.length]!, n)));
      out[i]!.push((1000 * n * pools[i]!.length) / (performance.now() - start));
    }
  }
  return out;
}

export function medianOf(x: readonly number[]): number {
  return quantileOf(
    [...x].sort((a, b) => a - b),
    0.5,
  );
}
