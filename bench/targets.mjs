// QC_TENSORRT_PYTHON=python node bench/targets.mjs FOLDER [NAME...]   (FOLDER: NAME.onnx beside a set NAME.yaml, samples for calibration)
//
// Every recipe of `tensorrt` on every model: does NVIDIA's builder take the file, and which share of the plan's products runs on operands of
// the intended types. One line of a table a model and recipe; needs tensorrt-rtx-cu13-bindings (see tools/tensorrt-builder.py).
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { from, readJson, scratch } from "./common.mjs";

const { quantize } = await from("index.js");
const { askBuilder, productsIn } = await from("cli/builder.js");
const { readModel } = await from("graph/onnx/index.js");
const { lintModel } = await from("export/lint/index.js");
const { targetOf } = await from("plan/targets/index.js");

/** Recipe, float type of the rest, target, the architecture to build for, and how the operands of a product of the plan read. */
const CASES = [
  ["int8", "float32", "tensorrt@8.6", "sm86", /^Int8 × Int8/],
  ["int8", "float32", "tensorrt@10", "sm89", /^Int8 × Int8/],
  ["int8", "float16", "tensorrt@11:sm89", "sm89", /^Int8 × Int8/],
  ["fp8", "float16", "tensorrt@11:sm89", "sm89", /^FP8 × FP8/],
  ["int4-weights", "float16", "tensorrt@11:sm89", "sm89", /^Half × Int4/],
  ["w4a8", "float16", "tensorrt@11:sm89", "sm89", /^Int8 × Int8/],
  ["fp16", undefined, "tensorrt@11:sm89", "sm89", /^Half × Half/],
  ["bf16", undefined, "tensorrt@11:sm89", "sm89", /^BFloat16 × BFloat16/],
  ["nvfp4", "float16", "tensorrt@11:sm120", "sm120", /^FP4E2M1 × FP4E2M1/],
  ["mxfp8", "float16", "tensorrt@11:sm120", "sm120", /^Half × (FP8|Half)/],
];
const SAMPLES = 8;
const [folder, ...wanted] = process.argv.slice(2);
const names = readdirSync(folder)
  .filter((f) => f.endsWith(".onnx") && existsSync(join(folder, f.replace(/onnx$/, "yaml"))))
  .map((f) => f.slice(0, -5))
  .filter((n) => wanted.length === 0 || wanted.includes(n))
  .sort((a, b) => wanted.indexOf(a) - wanted.indexOf(b));
const out = scratch();
const signal = new AbortController().signal;
console.log("| model | recipe, rest | target | opset | taken | products of the plan | intended types | lint |");
console.log("| --- | --- | --- | --- | --- | --- | --- | --- |");
for (const name of names)
  for (const [recipe, float, target, arch, want] of CASES) {
    const file = join(out, `${name}.onnx`);
    const cells = [name, float === undefined ? recipe : `${recipe}, ${float}`, target];
    try {
      const model = join(folder, `${name}.onnx`);
      const set = join(folder, `${name}.yaml`);
      const options = { data: set, recipe, target, effort: "fast", calibrator: "minmax", samples: SAMPLES, verifySamples: 0, out: file };
      const { report } = await quantize(model, { ...options, ...(float && { float }) });
      const answer = await askBuilder(file, arch, signal);
      const lowered = readModel(readFileSync(file), { folder: out });
      const plan = readJson(file.replace(/onnx$/, "plan.json"));
      const mine = float === undefined ? undefined : quantizedNodes(plan, lowered);
      const runs = productsIn(lowered, answer.kernels).filter((p) => p.op !== "ConvTranspose" && (mine?.has(p.node) ?? true));
      const kept = plan.rest?.keep.length ?? 0;
      const all = runs.filter((p) => p.types !== undefined).length;
      const right = runs.filter((p) => want.test(p.types ?? "")).length;
      const refused = lintModel(lowered, targetOf(target)).filter((f) => f.kind !== "slow").length;
      const share = all === 0 ? "none" : `${right} (${((100 * Math.min(right, all)) / all).toFixed(0)} %)`;
      const opset = lowered.opsets.get("");
      cells.push(
        opset,
        answer.taken ? "yes" : `no: ${answer.errors[0]?.text.slice(0, 120)}`,
        all,
        share,
        refused === 0 ? "takes it" : refused,
      );
      if (kept > 0) cells[1] += ` (${kept} float32)`;
      if (right < all && answer.taken)
        console.error(
          name,
          recipe,
          runs
            .filter((p) => !want.test(p.types ?? ""))
            .map((p) => `${p.node}: ${p.types}`)
            .slice(0, 6),
        );
    } catch (e) {
      cells.push("", `not made: ${String(e.message).split("\n")[0].slice(0, 140)}`, "", "", "");
    }
    console.log(`| ${cells.join(" | ")} |`);
  }
rmSync(out, { recursive: true });

/** Products that a weight site of the plan feeds, through a Transpose too. */
function quantizedNodes(plan, model) {
  const out = new Set();
  const nodes = new Map(model.graph.nodes.map((n) => [n.name || n.outputs[0].name, n]));
  for (const s of plan.sites) {
    if (s.kind !== "weight" || s.consumers === "all") continue;
    for (const c of s.consumers) {
      const n = nodes.get(c.node);
      if (n?.op === "Transpose") for (const u of n.outputs[0].uses) out.add(u.node.name || u.node.outputs[0].name);
      else out.add(c.node);
    }
  }
  return out;
}
