// What the search for schemes is worth: the frontier of a model, predicted against measured loss, and the simple choices that it has to beat.
//
//   node bench/mixed.mjs MODEL.onnx SET [--recipe w4a8] [--target portable] [--effort default]
//
// Losses are on samples that decide, not held out; `qc check` on the plans that it leaves judges those.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cli, measure, printTable, readJson, scratch } from "./common.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    recipe: { type: "string", default: "w4a8" },
    target: { type: "string", default: "portable" },
    effort: { type: "string", default: "default" },
  },
});
const [model, set] = positionals;
if (set === undefined) throw new Error("usage: node bench/mixed.mjs MODEL.onnx SET [--recipe w4a8] [--target portable] [--effort default]");

const folder = scratch();
const front = join(folder, "front.json");
const flat = ["recipe", "target", "effort"].flatMap((k) => [`--${k}`, flags[k]]);
const run = await measure(process.execPath, [
  cli,
  "quantize",
  model,
  "--data",
  set,
  ...flat,
  "--pareto",
  front,
  "--verify-samples",
  "0",
  "-o",
  join(folder, "m.onnx"),
]);
if (run.code !== 0) throw new Error(run.stderr);
const { points, dominated, baselines, rankCorrelation, networkRuns } = readJson(front);
const row = (name, p, more = "") => [
  name,
  p.weightBytes,
  p.bitsPerWeight.toFixed(2),
  p.sqnrDb.toFixed(2),
  p.predictedLoss.toExponential(2),
  p.measuredLoss.toExponential(2),
  more,
];

printTable(
  ["plan", "bytes of weights", "bits", "SQNR dB", "predicted", "measured", "loss of the search's at these bytes ÷ its own"],
  [
    ...points.map((p, i) => row(`frontier ${i + 1}`, p)),
    ...dominated.map((p) => row("dominated", p)),
    ...baselines.map((b) => row(b.name, b, b.ratio?.toFixed(3) ?? "")),
  ],
);
console.log(
  `\n${points.length} points; rank correlation of predicted and measured ${rankCorrelation?.toFixed(3) ?? "unknown"}; ${Math.round(networkRuns)} network runs, ${run.cpu.toFixed(0)} CPU s in all, ${run.peakMb.toFixed(0)} MB; plans in ${folder}`,
);
