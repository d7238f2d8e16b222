// Peers and qc on the same samples, judged by the same scorer, in one table.
//
//   node bench/peers/run.mjs MODEL... [--targets portable,ort-cpu] [--calibrators minmax,auto] [--settings pre_minmax_u8_pc,pre_pct_pc] [--rounds 3]
//
// Nothing here knows where anything is. The environment says:
//   QC_PEER_PYTHON     python of the virtual environment with onnxruntime and onnx
//   QC_PEER_SCRIPTS    folder with q_ort.py (MODEL SETTING) and score.py (MODEL FILE TAG LEVELS); both print a line that ends with their figures
//   QC_WORK, QC_MODELS what those scripts themselves ask for; prepared data lie in QC_WORK/data, results in QC_WORK/res and QC_WORK/out
//   QC_PEER_SETS       folder with MODEL.onnx (or a link) and MODEL.yaml, a set file over the same samples, for each MODEL
//
// CPU seconds and peak memory are those of the whole process, start of the interpreter included; runs of both sides alternate.
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cli, measure, median, printTable, readJson } from "../common.mjs";

const { values: flags, positionals: models } = parseArgs({
  allowPositionals: true,
  options: {
    targets: { type: "string", default: "portable" },
    calibrators: { type: "string", default: "minmax" },
    settings: { type: "string", default: "pre_minmax_u8_pc" },
    samples: { type: "string", default: "512" },
    rounds: { type: "string", default: "3" },
    levels: { type: "string", default: "ref,opt" },
  },
});
const need = (name) => {
  const v = process.env[name];
  if (!v) throw new Error(`${name} is not set; see the head of this file`);
  return v;
};
const [python, scripts, sets, work] = ["QC_PEER_PYTHON", "QC_PEER_SCRIPTS", "QC_PEER_SETS", "QC_WORK"].map(need);
if (models.length === 0) throw new Error("name at least one model");
const list = (s) => s.split(",").filter((x) => x !== "");
const out = join(work, "out");
mkdirSync(out, { recursive: true });

const rows = [];
for (const model of models) {
  const jobs = [
    ...list(flags.settings).map((setting) => ({
      name: `ort ${setting}`,
      tag: `${model}__ort__${setting}`,
      file: join(out, `${model}__ort__${setting}.onnx`),
      run: () => measure(python, [join(scripts, "q_ort.py"), model, setting], { cwd: work }),
    })),
    ...list(flags.targets).flatMap((target) =>
      list(flags.calibrators).map((calibrator) => {
        const tag = `${model}__qc__${target.replace(/\W/g, "_")}_${calibrator.replace(/\W/g, "_")}`;
        const file = join(out, `${tag}.onnx`);
        const args = [
          "quantize",
          join(sets, `${model}.onnx`),
          "--data",
          join(sets, `${model}.yaml`),
          "--target",
          target,
          "--calibrator",
          calibrator,
        ];
        return {
          name: `qc ${target} ${calibrator}`,
          tag,
          file,
          run: () => measure(process.execPath, [cli, ...args, "--effort", "fast", "--samples", flags.samples, "-o", file, "-q"]),
        };
      }),
    ),
  ];
  const costs = jobs.map(() => []);
  for (let round = 0; round < Number(flags.rounds); round++) for (const [k, j] of jobs.entries()) costs[k].push(await j.run());
  for (const [k, j] of jobs.entries()) {
    const failed = costs[k].find((c) => c.code !== 0);
    const middle = (key) => median(costs[k].map((c) => c[key]));
    const cost = [middle("wall").toFixed(2), middle("cpu").toFixed(2), middle("peakMb").toFixed(0)];
    if (failed || !existsSync(j.file)) {
      rows.push([model, j.name, "failed", "", "", "", "", ...cost]);
      continue;
    }
    await measure(python, [join(scripts, "score.py"), model, j.file, j.tag, flags.levels], { cwd: work });
    const s = readJson(join(work, "res", `s_${j.tag}.json`));
    const level = s.ref ?? s.opt;
    rows.push([
      model,
      j.name,
      figure(level?.acc),
      figure(level?.sqnr, 1),
      figure(s.opt?.sqnr, 1),
      figure(level?.agree, 1),
      String(s.bytes),
      ...cost,
    ]);
  }
}
printTable(["model", "what", "metric", "SQNR ref", "SQNR opt", "agree %", "bytes", "wall s", "CPU s", "peak MB"], rows);

function figure(x, digits = 3) {
  return typeof x === "number" ? x.toFixed(digits) : "-";
}
