import type { Feeds, Session } from "../../runtime/types.ts";
import { quantileOf } from "../statistics.ts";

export interface LoadResult {
  readonly asked: number;
  /** Requests a second that were answered. */
  readonly reached: number;
  readonly requests: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/**
 * Requests arrive at fixed times i / rate, whatever the state of those before (an open loop: a stalled server does not slow its callers
 * down, so its queue shows). Latency counts from the time of arrival to the answer. The session with the shortest queue takes each.
 */
export async function loadTest(
  pool: readonly Session[],
  feeds: readonly Feeds[],
  o: { readonly rate: number; readonly seconds: number; readonly signal?: AbortSignal | undefined },
): Promise<LoadResult> {
  await Promise.all(pool.map((s) => s.time(feeds[0]!, 3)));
  const total = Math.max(1, Math.round(o.rate * o.seconds));
  const took: number[] = [];
  const queued = pool.map(() => 0);
  const open = new Set<Promise<void>>();
  const start = performance.now();
  let failure: unknown;
  for (let i = 0; i < total && failure === undefined; ) {
    o.signal?.throwIfAborted();
    const due = start + (1000 * i) / o.rate;
    const wait = due - performance.now();
    if (wait > 0.5) await new Promise((r) => setTimeout(r, Math.max(1, Math.floor(wait))));
    // All that are due by now arrive together; the timer is no finer than a millisecond.
    while (i < total && start + (1000 * i) / o.rate <= performance.now()) {
      const arrived = start + (1000 * i) / o.rate;
      const k = queued.indexOf(Math.min(...queued));
      queued[k]!++;
      const p: Promise<void> = pool[k]!.time(feeds[i % feeds.length]!, 1).then(
        () => {
          took.push(performance.now() - arrived);
          queued[k]!--;
          open.delete(p);
        },
        (e: unknown) => {
          failure ??= e;
          open.delete(p);
        },
      );
      open.add(p);
      i++;
    }
    // Answers must be heard between arrivals.
    await new Promise((r) => setImmediate(r));
  }
  await Promise.all(open);
  if (failure !== undefined) throw failure;
  const seconds = (performance.now() - start) / 1000;
  took.sort((a, b) => a - b);
  return {
    asked: o.rate,
    reached: took.length / seconds,
    requests: took.length,
    p50Ms: quantileOf(took, 0.5),
    p90Ms: quantileOf(took, 0.9),
    p99Ms: quantileOf(took, 0.99),
    maxMs: took.at(-1)!,
  };
}
