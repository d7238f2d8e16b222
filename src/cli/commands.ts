import { BENCH, BUILD, CARD, CHECK, DEDUPE, DRIFT, REPORT, SAMPLE } from "../gate-options.ts";
import {
  APPLY,
  CALIBRATE,
  COSTS,
  LINT,
  OUT,
  PLAN,
  QAT_IMPORT,
  QAT_INSERT,
  QAT_TRAIN,
  QUANTIZE,
  SENSITIVITY,
  STATS_TABLE,
} from "../options.ts";
import { type Command, command } from "./command.ts";

const MODEL = { name: "MODEL", help: "an ONNX file" } as const;

/** Every command, by the words that call it. Help, completion and the parser read this table. */
export const COMMANDS: Readonly<Record<string, Command>> = {
  quantize: command({
    summary: "the whole compiler: prepare, calibrate, plan, lower, verify",
    args: [MODEL],
    options: QUANTIZE,
    examples: [
      "qc quantize model.onnx --data set.yaml --target ort-cpu",
      "qc quantize model.onnx                       # weights only, no data",
      "qc quantize model.onnx -d samples.npz --skip 'head.*' --skip op:Softmax --effort fast -o small.onnx",
    ],
    load: () => import("./commands/quantize.ts"),
  }),
  calibrate: command({
    summary: "collect statistics only; shards merge exactly",
    args: [MODEL],
    options: CALIBRATE,
    examples: ["qc calibrate model.onnx --data set.yaml -o model.stats", "qc calibrate model.onnx -d set.yaml --shard 1/4 -o 1.stats"],
    load: () => import("./commands/calibrate.ts"),
  }),
  "stats show": command({
    summary: "what a statistics file holds, value by value",
    args: [{ name: "STATS", help: "a file of qc calibrate" }],
    options: {},
    examples: ["qc stats show model.stats"],
    load: () => import("./commands/stats-show.ts"),
  }),
  "stats merge": command({
    summary: "join the statistics of shards, in any order, exactly",
    args: [{ name: "STATS", help: "files of qc calibrate", many: true }],
    options: OUT,
    examples: ["qc stats merge 1.stats 2.stats 3.stats -o model.stats"],
    load: () => import("./commands/stats-merge.ts"),
  }),
  sensitivity: command({
    summary: "what each layer in each scheme costs the output, codes solved, worst per byte first",
    args: [MODEL],
    options: SENSITIVITY,
    examples: [
      "qc sensitivity model.onnx --data set.yaml -r w4a8",
      "qc sensitivity model.onnx -d set.yaml --loss kl --coalitions 16 -o s.json",
    ],
    load: () => import("./commands/sensitivity.ts"),
  }),
  costs: command({
    summary: "what every node takes in every scheme, for --cost-table: measured here, or from TensorRT's layer profiles",
    args: [MODEL],
    options: COSTS,
    examples: [
      "qc costs model.onnx --data set.yaml -o model.costs.json",
      "qc costs model.onnx -d set.yaml -t tensorrt --profile float=fp16.json --profile w8a8=int8.json -o model.costs.json",
    ],
    load: () => import("./commands/costs.ts"),
  }),
  "stats table": command({
    summary: "a calibration table for other tools: TensorRT's cache or onnxruntime's",
    args: [{ name: "STATS", help: "a file of qc calibrate" }],
    options: STATS_TABLE,
    examples: [
      "qc stats table model.stats -o calibration.cache",
      "qc stats table model.stats --calibrator minmax -o calibration.flatbuffers",
    ],
    load: () => import("./commands/stats-table.ts"),
  }),
  "stats diff": command({
    summary: "how far new statistics moved from stored ones, and what range they cover; exit 3 above --most",
    args: [
      { name: "STORED", help: "a file of qc calibrate" },
      { name: "NEW", help: "another, of the same model" },
    ],
    options: DRIFT,
    examples: ["qc stats diff model.stats today.stats"],
    load: () => import("./commands/stats-diff.ts"),
  }),
  plan: command({
    summary: "decide only: every site, scale and skip, with the reason",
    args: [MODEL],
    options: PLAN,
    examples: ["qc plan model.onnx --stats model.stats --target tensorrt -o plan.json"],
    load: () => import("./commands/plan.ts"),
  }),
  "plan diff": command({
    summary: "what differs between two plans",
    args: [
      { name: "A", help: "a plan" },
      { name: "B", help: "another plan" },
    ],
    options: {},
    examples: ["qc plan diff before.plan.json after.plan.json"],
    load: () => import("./commands/plan-diff.ts"),
  }),
  apply: command({
    summary: "lower a plan to a model; needs no data",
    args: [MODEL],
    options: APPLY,
    examples: ["qc apply model.onnx --plan plan.json -o model.int8.onnx"],
    load: () => import("./commands/apply.ts"),
  }),
  "qat train": command({
    summary: "fine-tune the fake-quantized graph, without a training framework; label-free by default",
    args: [MODEL],
    options: QAT_TRAIN,
    examples: [
      "qc qat train model.onnx --data set.yaml",
      "qc qat train model.onnx -d set.yaml --plan model.int8.plan.json --steps 1000 --resume",
    ],
    load: () => import("./commands/qat-train.ts"),
  }),
  "qat insert": command({
    summary: "put fake quantization with trainable scales into a graph, for another trainer",
    args: [MODEL],
    options: QAT_INSERT,
    examples: ["qc qat insert model.onnx --plan model.int8.plan.json -o model.trainable.onnx"],
    load: () => import("./commands/qat-insert.ts"),
  }),
  "qat import": command({
    summary: "take the learned scales and weights back into a plan",
    args: [{ name: "TRAINED", help: "the file that the trainer wrote" }],
    options: QAT_IMPORT,
    examples: ["qc qat import trained.onnx --plan model.int8.plan.json --list model.trainable.qat.json -o model.qat.plan.json"],
    load: () => import("./commands/qat-import.ts"),
  }),
  check: command({
    summary: "accuracy, size and latency against a reference or a baseline; exit 3 below the gate",
    args: [{ name: "MODEL", help: "a reference and a candidate; one model with --baseline or --save-baseline", many: true }],
    options: CHECK,
    examples: [
      "qc check model.onnx model.int8.onnx --data set.yaml --gate gate.yaml",
      "qc check model.onnx --data set.yaml --save-baseline baseline.json",
      "qc check model.int8.onnx --data set.yaml --baseline baseline.json --junit check.xml",
      "qc check model.onnx model.int8.onnx -d set.yaml --attack pgd --epsilon 0.03",
    ],
    load: () => import("./commands/check.ts"),
  }),
  bench: command({
    summary: "latency percentiles, throughput and memory, models interleaved in one run",
    args: [{ name: "MODEL", help: "ONNX files with the same inputs; ratios are to the first", many: true }],
    options: BENCH,
    examples: [
      "qc bench model.onnx model.int8.onnx --data set.yaml",
      "qc bench model.onnx model.int8.onnx -d set.yaml --threads 1,4 --batch 1,8 --save bench.json",
      "qc bench model.int8.onnx -d set.yaml --rate 1000 --seconds 10 --p99 200",
    ],
    load: () => import("./commands/bench.ts"),
  }),
  build: command({
    summary: "every artefact that a config file names; what is up to date is skipped",
    args: [
      {
        name: "CONFIG",
        help: "models, targets, recipes, budgets and gates (default: qc.yaml); with --preset a model or a folder",
        optional: true,
      },
    ],
    options: BUILD,
    examples: [
      "qc build",
      "qc build qc.yaml --jobs 4 --memory 8GB",
      "qc build --check",
      "qc build model.onnx --preset transformers.js -o my-model",
    ],
    load: () => import("./commands/build.ts"),
  }),
  report: command({
    summary: "a report as one page that needs no network",
    args: [{ name: "REPORT", help: "a report.json of qc quantize" }],
    options: REPORT,
    examples: ["qc report model.int8.report.json --stats model.stats --model model.onnx --data set.yaml"],
    load: () => import("./commands/report.ts"),
  }),
  explain: command({
    summary: "why a node is as it is: site, scheme, range, rule, reason for a skip",
    args: [
      { name: "PLAN|MODEL", help: "a plan, or a quantized model beside its plan" },
      { name: "NODE", help: "a node or value; globs work", optional: true },
    ],
    options: {},
    examples: ["qc explain model.int8.plan.json", "qc explain model.int8.onnx 'head.*'"],
    load: () => import("./commands/explain.ts"),
  }),
  lint: command({
    summary: "is this graph legal for the target, and what will run slowly there; exit 3 when it is not legal",
    args: [MODEL],
    options: LINT,
    examples: ["qc lint model.int8.onnx --target tensorrt", "qc lint model.onnx -t tensorrt:sm89 --with-builder --sarif lint.sarif"],
    load: () => import("./commands/lint.ts"),
  }),
  inspect: command({
    summary: "inputs, outputs, operators, parameters, bytes, types, opsets",
    args: [MODEL],
    options: { nodes: { type: "flag", help: "list every node" } },
    examples: ["qc inspect model.onnx"],
    load: () => import("./commands/inspect.ts"),
  }),
  "data init": command({
    summary: "write a set file for a model, to fill in",
    args: [MODEL],
    options: OUT,
    examples: ["qc data init model.onnx -o set.yaml"],
    load: () => import("./commands/data-init.ts"),
  }),
  "data check": command({
    summary: "does a set fit a model: shapes, types, ranges, NaN, roles",
    args: [
      { name: "SET", help: "what --data takes" },
      { name: "MODEL", help: "an ONNX file" },
    ],
    options: {},
    examples: ["qc data check set.yaml model.onnx"],
    load: () => import("./commands/data-check.ts"),
  }),
  "data dedupe": command({
    summary: "samples that repeat others, exactly or nearly; exit 3 when they stand in different roles",
    args: [
      { name: "SET", help: "what --data takes" },
      { name: "MODEL", help: "an ONNX file" },
    ],
    options: DEDUPE,
    examples: ["qc data dedupe set.yaml model.onnx", "qc data dedupe set.yaml model.onnx -o indices.json"],
    load: () => import("./commands/data-dedupe.ts"),
  }),
  "data sample": command({
    summary: "draw calibrate samples with the classes in proportion",
    args: [
      { name: "SET", help: "what --data takes" },
      { name: "MODEL", help: "an ONNX file" },
    ],
    options: SAMPLE,
    examples: ["qc data sample set.yaml model.onnx -n 200 -o indices.json"],
    load: () => import("./commands/data-sample.ts"),
  }),
  "data card": command({
    summary: "what a set is, as a page of Markdown: counts, hashes, classes, repeats",
    args: [
      { name: "SET", help: "what --data takes" },
      { name: "MODEL", help: "an ONNX file" },
    ],
    options: CARD,
    examples: ["qc data card set.yaml model.onnx -o CARD.md"],
    load: () => import("./commands/data-card.ts"),
  }),
  doctor: command({
    summary: "which runtimes, providers, threads and instructions are here, and what follows",
    options: {},
    examples: ["qc doctor"],
    load: () => import("./commands/doctor.ts"),
  }),
  completion: command({
    summary: "a completion script for a shell",
    args: [{ name: "SHELL", help: "bash, zsh or fish" }],
    options: {},
    examples: ["qc completion bash > ~/.local/share/bash-completion/completions/qc"],
    load: () => import("./commands/completion.ts"),
  }),
};
