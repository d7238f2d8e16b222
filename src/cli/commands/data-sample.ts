import { drawStratified } from "../../data/draw.ts";
import { openData } from "../../data/index.ts";
import type { SAMPLE } from "../../gate-options.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { jsonText } from "../../outputs.ts";
import { inputsOf } from "../../source.ts";
import type { Context, ExitCode } from "../command.ts";

export async function run(c: Context<typeof SAMPLE>): Promise<ExitCode> {
  const { print, options } = c;
  const data = await openData(c.args[0]!, inputsOf(loadModel(c.args[1]!)), { seed: options.seed, report: print.diagnostic });
  const pool = data.roles.calibrate;
  const drawn = drawStratified(pool, data.classes, options.count, options.seed);
  const share = (list: readonly number[]) => {
    const n = new Map<string, number>();
    for (const i of list) n.set(String(data.classes?.[i] ?? "none"), (n.get(String(data.classes?.[i] ?? "none")) ?? 0) + 1 / list.length);
    return n;
  };
  const [whole, part] = [share(pool), share(drawn)];
  const classes = [...whole].sort().map(([name, s]) => ({ class: name, whole: s, drawn: part.get(name) ?? 0 }));
  const most = Math.max(...classes.map((k) => Math.abs(k.whole - k.drawn)));
  print.document({ ok: true, drawn: drawn.length, of: pool.length, classes, largestDifference: most, indices: drawn });
  print.out(
    `drawn      ${drawn.length} of ${pool.length} calibrate samples; class shares differ by ${(100 * most).toFixed(2)} points at most`,
  );
  if (options.out === undefined) return 0;
  writeAtomic(options.out, jsonText({ calibrate: drawn, select: data.roles.select, heldOut: data.roles.heldOut }));
  print.out(`wrote      ${options.out}`);
  return 0;
}
