import { type BenchRow, bench } from "../../bench.ts";
import type { BENCH } from "../../gate-options.ts";
import type { Context, ExitCode } from "../command.ts";
import { bytes, table } from "../print.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof BENCH>): Promise<ExitCode> {
  const { print } = c;
  const { memory: _, ...options } = c.options;
  const result = await bench(c.args, { ...options, signal: c.signal, onEvent: eventPrinter(print) });
  print.document({ ok: true, ...result });
  if (options.data === undefined) print.talk("inputs are zeros, open axes are 1: give --data for what your samples take");
  const ms = (x: number) => (x >= 100 ? x.toFixed(0) : x >= 1 ? x.toFixed(2) : x.toFixed(3));
  const ratio = (r: BenchRow["ratio"]) => (r === undefined ? "" : `×${r.ratio.toFixed(3)} (${r.low.toFixed(3)} to ${r.high.toFixed(3)})`);
  const kept = result.rows.some((r) => r.against !== undefined);
  print.out(
    table(
      [
        [
          "model",
          "threads",
          "batch",
          "p50 ms",
          "p90 ms",
          "p99 ms",
          "samples/s",
          "peak",
          "load ms",
          "to the first, 95 %",
          ...(kept ? ["to the kept"] : []),
        ],
        ...result.rows.map((r) => [
          r.model,
          String(r.threads),
          String(r.batch),
          ms(r.p50Ms),
          ms(r.p90Ms),
          ms(r.p99Ms),
          r.perSecond.toFixed(0),
          bytes(r.peakBytes),
          ms(r.loadMs),
          ratio(r.ratio),
          ...(kept ? [ratio(r.against)] : []),
        ]),
      ],
      [1, 2, 3, 4, 5, 6, 7, 8],
    ),
  );
  const { share, from } = result.utilization;
  print.out(
    `device     ${result.machine.device ?? "cpu"}: ${share === undefined ? `how busy it was is not known, ${from}` : `${(100 * share).toFixed(0)} % busy while latency was taken (${from})`}`,
  );
  for (const r of result.refused) print.out(`${r.model}: no batch of ${r.batch}, ${r.why}`);
  let late = false;
  for (const r of result.rows) {
    if (r.load === undefined) continue;
    const l = r.load;
    // A test that did not keep up with the rate has not shown it.
    const behind = l.reached < 0.95 * l.asked;
    const over = options.p99 !== undefined && l.p99Ms > options.p99;
    late ||= behind || over;
    print.out(
      `load       ${r.model}: ${l.reached.toFixed(0)} of ${l.asked} requests/s over ${l.requests} requests, p50 ${ms(l.p50Ms)} p90 ${ms(l.p90Ms)} p99 ${ms(l.p99Ms)} max ${ms(l.maxMs)} ms${behind ? ", behind the rate" : ""}${over ? `, above ${options.p99} ms` : ""}`,
    );
  }
  return late ? 3 : 0;
}
