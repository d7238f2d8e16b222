import { type Options, QUANTIZE } from "./options.ts";
import { ATTACKS } from "./verify/gate/attacks.ts";

const { data, seed, threads, memory, provider } = QUANTIZE;

export const CHECK = {
  data,
  gate: {
    type: "text",
    short: "g",
    hint: "FILE",
    help: "limits and their severity (default: size 10 %, latency 5 %, accuracy 3 %, throughput 20 %)",
  },
  samples: { type: "number", hint: "N", integer: true, min: 1, help: "held-out samples to compare on (default: all)" },
  rounds: {
    type: "number",
    hint: "N",
    integer: true,
    min: 0,
    default: 60,
    help: "interleaved rounds of timing; 0 leaves times and memory out",
  },
  level: {
    type: "choice",
    of: ["disabled", "basic", "extended", "layout", "all"],
    default: "all",
    help: "graph optimization level at which both run",
  },
  baseline: { type: "text", hint: "FILE", help: "compare with what this file holds instead of a reference model" },
  saveBaseline: { type: "text", hint: "FILE", help: "keep what was measured of the only model given" },
  attack: {
    type: "choice",
    of: ATTACKS,
    help: "also compare on samples changed to mislead the reference (which must be float): one gradient step, or several projected ones",
  },
  epsilon: {
    type: "number",
    hint: "E",
    min: 0,
    max: 1,
    default: 0.03,
    help: "largest change of an input element by --attack, as a share of the input's range",
  },
  steps: { type: "number", hint: "N", integer: true, min: 1, max: 1000, default: 10, help: "gradient steps of --attack pgd" },
  range: {
    type: "text",
    hint: "LOW,HIGH",
    help: "the range of the inputs that --attack keeps to (default: smallest and largest element of the samples)",
  },
  junit: { type: "text", hint: "FILE", help: "write JUnit XML" },
  markdown: { type: "text", hint: "FILE", help: "write a summary for a pull request" },
  github: { type: "flag", help: "print annotations for GitHub Actions" },
  seed,
  threads,
  memory,
  provider,
} as const satisfies Options;

export const REPORT = {
  plan: { type: "text", hint: "FILE", help: "the plan (default: the one beside the report)" },
  stats: { type: "text", hint: "FILE", help: "statistics, for histograms with the chosen ranges" },
  model: { type: "text", hint: "FILE", help: "the float model: with --data, for pictures of the samples that changed" },
  data,
  out: { type: "text", short: "o", hint: "FILE", help: "the page (default: beside the report, .html)" },
} as const satisfies Options;

export const BENCH = {
  data: { ...data, help: "samples to run; without, zeros with every open axis 1" },
  rounds: { type: "number", hint: "N", integer: true, min: 1, default: 60, help: "interleaved rounds; each runs every model in turn" },
  threads: { type: "list", hint: "N", help: "threads of one run: several are tried one after another (default 1)" },
  batch: { type: "list", hint: "N", help: "samples in one run, where the model's first axis is open (default 1)" },
  concurrency: {
    type: "number",
    hint: "N",
    integer: true,
    min: 1,
    max: 256,
    help: "runs side by side for throughput (default: all cores)",
  },
  rate: { type: "number", hint: "R", min: 0, help: "load test: requests a second that arrive whether or not the last is done" },
  seconds: { type: "number", hint: "S", min: 0.1, default: 10, help: "how long the load test lasts" },
  p99: { type: "number", hint: "MS", min: 0, help: "the load test fails (exit 3) when its 99th percentile is above this" },
  level: CHECK.level,
  save: { type: "text", hint: "FILE", help: "keep the figures with the machine they were taken on" },
  against: { type: "text", hint: "FILE", help: "compare with kept figures; refused when they come from another machine" },
  provider,
  memory,
} as const satisfies Options;

export const BUILD = {
  preset: { type: "choice", of: ["transformers.js"], help: "no config: make what this library loads, from a model or a folder of them" },
  data: { ...data, help: "with --preset: samples to calibrate and verify with" },
  out: { type: "text", short: "o", hint: "FOLDER", help: "with --preset: where to write (default: SOURCE with the preset behind it)" },
  check: { type: "flag", help: "build nothing; exit 3 when an output is not what the config, models and sets ask for" },
  force: { type: "flag", help: "make everything anew" },
  jobs: {
    type: "number",
    short: "j",
    hint: "N",
    integer: true,
    min: 1,
    help: "artefacts made side by side (default: of the config, or 1)",
  },
  memory,
} as const satisfies Options;

const { out: OUT_FILE } = { out: { type: "text", short: "o", hint: "FILE", help: "where to write" } } as const satisfies Options;
export const DEDUPE = {
  out: { ...OUT_FILE, help: "write the roles without duplicates: a file that `split: { indices: FILE }` takes" },
  seed,
} as const satisfies Options;
export const SAMPLE = {
  count: {
    type: "number",
    short: "n",
    hint: "N",
    integer: true,
    min: 1,
    default: 256,
    help: "calibrate samples to draw, classes in proportion",
  },
  out: { ...OUT_FILE, help: "the list: a file that `split: { indices: FILE }` takes" },
  seed,
} as const satisfies Options;
export const CARD = { out: { ...OUT_FILE, help: "the card, Markdown (default: on stdout)" }, seed } as const satisfies Options;
export const DRIFT = {
  most: { type: "number", hint: "D", min: 0, max: 1, default: 0.1, help: "exit 3 when a value's distribution moved by more (0 to 1)" },
} as const satisfies Options;
