import { QcError } from "./diagnostics.ts";
import { BLOCKS, TABLE_CHOICES } from "./plan/recipes/tune.ts";
import { TARGET_NAMES } from "./plan/target.ts";

/**
 * One table makes the parser, the help text, the static types, the typo hints and the config schema. A command is a row of `COMMANDS`;
 * an option is a row of one of the tables that it lists. Nothing here parses: `cli/parser.ts` does, and `checkOptions` for the API.
 */
export type Option = FlagOption | TextOption | NumberOption | ChoiceOption | ListOption;
interface Base {
  readonly help: string;
  /** One letter. */
  readonly short?: string;
}
export interface FlagOption extends Base {
  readonly type: "flag";
}
export interface TextOption extends Base {
  readonly type: "text";
  readonly hint: string;
  readonly default?: string;
}
export interface NumberOption extends Base {
  readonly type: "number";
  readonly hint: string;
  readonly integer?: true;
  readonly min?: number;
  readonly max?: number;
  readonly default?: number;
  /** Accepts `4GB`, `512MB` and gives bytes. */
  readonly bytes?: true;
}
export interface ChoiceOption extends Base {
  readonly type: "choice";
  readonly of: readonly string[];
  /** Values may carry a suffix after this character: `tensorrt@8.6`, `percentile=99.99`. */
  readonly suffix?: "@" | "=";
  /** The name of a YAML or JSON file is taken too. */
  readonly file?: true;
  readonly hint?: string;
  readonly default?: string;
}
/** May be given several times; commas separate too. */
export interface ListOption extends Base {
  readonly type: "list";
  readonly hint: string;
}
export type Options = Readonly<Record<string, Option>>;

export const EFFORTS = ["fast", "default", "best"] as const;
export type Effort = (typeof EFFORTS)[number];
export const CALIBRATOR_CHOICES = ["auto", "minmax", "percentile", "entropy", "mse"] as const;
export const RECIPES = [
  "auto",
  "int8",
  "int8-dynamic",
  "int8-tokens",
  "uint8-dynamic",
  "int8-weights",
  "int4-weights",
  "int2-weights",
  "nf4-weights",
  "fp4-weights",
  "w4a8",
  "w7a8",
  "w8a16",
  "w4a16",
  "w4a4",
  "fp8",
  "mxfp8",
  "nvfp4",
  "fp16",
  "bf16",
] as const;

/** Calibrate samples that are used when nothing else is asked for. */
export const DEFAULT_SAMPLES = 256;

/** Every command has these. */
export const COMMON = {
  json: { type: "flag", help: "print one JSON document on stdout" },
  quiet: { type: "flag", short: "q", help: "no talk on stderr but errors" },
} as const satisfies Options;

const RUN = {
  seed: { type: "number", hint: "N", integer: true, default: 0, help: "equal inputs and seed give equal bytes" },
  threads: { type: "number", hint: "N", integer: true, min: 1, max: 1024, help: "most threads for this run (default: all cores)" },
  memory: { type: "number", hint: "BYTES", bytes: true, min: 1, help: "most memory for this run, such as 4GB; stops when it is passed" },
  provider: { type: "choice", of: ["cpu", "cuda", "webgpu"], default: "cpu", help: "what runs calibration and verification" },
} as const satisfies Options;

const DATA = {
  data: { type: "text", short: "d", hint: "SET", help: "samples: set.yaml, .npz, .npy, a folder, or a loader module" },
  samples: {
    type: "number",
    hint: "N",
    integer: true,
    min: 1,
    help: "samples drawn to calibrate (default 256, or all if there are fewer)",
  },
} as const satisfies Options;

const DECIDE = {
  target: {
    type: "choice",
    short: "t",
    of: TARGET_NAMES,
    suffix: "@",
    default: "portable",
    help: "the runtime to compile for; may carry a version, as in tensorrt@8.6",
  },
  recipe: {
    type: "choice",
    short: "r",
    of: RECIPES,
    file: true,
    default: "auto",
    help: "what to make (auto: from the graph, the target and whether there is data), or a file with base, schemes, skip, budget",
  },
  float: {
    type: "choice",
    of: ["float32", "float16", "bfloat16"],
    help: "what the rest of the network computes in (default: the recipe's); what would overflow stays float32",
  },
  block: {
    type: "choice",
    of: BLOCKS,
    help: "weights alone: inputs that share a scale, or all of a channel (default: the recipe's)",
  },
  symmetric: { type: "flag", help: "weights alone: no zero points" },
  tables: { type: "choice", of: TABLE_CHOICES, help: "weights alone: bits of lookup tables and of products that read one (default 8)" },
  accuracyLevel: {
    type: "number",
    hint: "N",
    integer: true,
    min: 0,
    max: 4,
    help: "weights alone: attribute accuracy_level of MatMulNBits, 1 float32 to 4 int8 (default: not written, float32 sums)",
  },
  calibrator: {
    type: "choice",
    of: CALIBRATOR_CHOICES,
    suffix: "=",
    default: "auto",
    help: "how ranges are chosen; auto takes what errs least at the output, on samples that did not set the ranges",
  },
  budget: { type: "text", short: "b", hint: "LIMITS", help: "such as 'drop<=0.5%,size<=4MB'; exit 3 when it is missed" },
  costTable: {
    type: "text",
    hint: "FILE",
    help: "times of qc costs: nodes that are slower in 8 bits stay float, and limits on latency are planned for",
  },
  scheme: {
    type: "list",
    hint: "PATTERN=SCHEME",
    help: "pin layers: 'head.*=w8a8', 'at:ends=w8a8', 'op:Gemm=float'; schemes are float, w8a8, w8a16, w4a8, w8, w4b64 …",
  },
  start: {
    type: "text",
    hint: "PLAN",
    help: "a plan to start from: its schemes are kept (with a budget: its pins, and the rest is where the search begins)",
  },
  skip: {
    type: "list",
    short: "s",
    hint: "PATTERN",
    help: "leave nodes in float: names, globs ('head.*'), op:Softmax or at:first, at:last, at:ends",
  },
  effort: {
    type: "choice",
    short: "e",
    of: EFFORTS,
    default: "default",
    help: "fast: calibration alone; default: closed-form corrections; best: learned rounding",
  },
} as const satisfies Options;

export const QUANTIZE = {
  ...DATA,
  stats: { type: "text", hint: "FILE", help: "statistics of qc calibrate on this model and set: the calibrate samples are not run again" },
  ...DECIDE,
  ...RUN,
  out: { type: "text", short: "o", hint: "FILE", help: "the quantized model (default: MODEL with the recipe before the extension)" },
  plan: { type: "text", hint: "FILE", help: "where the plan goes (default: beside the model, .plan.json)" },
  prune: {
    type: "text",
    hint: "PART",
    help: "take channels out first: the part of the multiplications that goes (0.3), or auto: as much as a limit on size or latency needs",
  },
  pareto: { type: "text", hint: "FILE", help: "write the frontier of size and loss as JSON, with a plan beside it for each point" },
  report: { type: "text", hint: "FILE", help: "where the report goes (default: beside the model, .report.json)" },
  verifySamples: {
    type: "number",
    hint: "N",
    integer: true,
    min: 0,
    help: "held-out samples to verify on (default 64 at --effort fast, else 512); 0 leaves it out",
  },
  dryRun: { type: "flag", help: "forecast sites, skips, bytes and time; write nothing" },
  requantize: { type: "flag", help: "take a model that is quantized already back to float first" },
} as const satisfies Options;

export const SENSITIVITY = {
  ...DATA,
  target: DECIDE.target,
  recipe: DECIDE.recipe,
  calibrator: DECIDE.calibrator,
  scheme: DECIDE.scheme,
  skip: DECIDE.skip,
  loss: {
    type: "choice",
    of: ["nmse", "kl"],
    default: "nmse",
    help: "noise / signal at the outputs, or divergence of their softmax",
  },
  fisher: {
    type: "number",
    hint: "N",
    integer: true,
    min: 0,
    default: 0,
    help: "draws of the gradient method, to compare with what was measured",
  },
  coalitions: {
    type: "number",
    hint: "N",
    integer: true,
    min: 0,
    default: 0,
    help: "random orders of changing all layers, for how their errors interact",
  },
  ...RUN,
  out: { type: "text", short: "o", hint: "FILE", help: "the table as JSON" },
} as const satisfies Options;

const LEVELS = ["disabled", "basic", "extended", "layout", "all"] as const;
export const COSTS = {
  ...DATA,
  target: { ...DECIDE.target, default: "ort-cpu" },
  recipe: DECIDE.recipe,
  skip: DECIDE.skip,
  level: { type: "choice", of: LEVELS, default: "all", help: "onnxruntime's graph optimizations" },
  threads: { type: "number", hint: "N", integer: true, min: 1, max: 1024, default: 1, help: "threads of one run" },
  runs: { type: "number", hint: "N", integer: true, min: 4, default: 80, help: "runs of each graph that count" },
  profile: {
    type: "list",
    hint: "SCHEME=FILE",
    help: "take over what trtexec --exportProfile wrote of the float engine (float=FILE) and of those of schemes (w8a8=FILE)",
  },
  seed: RUN.seed,
  memory: RUN.memory,
  provider: RUN.provider,
  out: { type: "text", short: "o", hint: "FILE", help: "the cost table as JSON" },
} as const satisfies Options;

export const CALIBRATE = {
  ...DATA,
  ...RUN,
  out: { type: "text", short: "o", hint: "FILE", help: "the statistics file (default: MODEL.stats)" },
  shard: { type: "text", hint: "I/N", help: "only the I-th of N parts of the calibrate samples, 1 <= I <= N" },
  resume: { type: "flag", help: "keep what the output file holds already and do the rest" },
} as const satisfies Options;

export const PLAN = {
  stats: { type: "text", hint: "FILE", help: "statistics from qc calibrate" },
  table: { type: "text", hint: "FILE", help: "ranges of another tool instead: a TensorRT calibration cache or an onnxruntime table" },
  ...DATA,
  ...DECIDE,
  ...RUN,
  out: { type: "text", short: "o", hint: "FILE", help: "the plan (default: MODEL.plan.json)" },
} as const satisfies Options;

export const APPLY = {
  plan: { type: "text", hint: "FILE", help: "the plan to apply" },
  out: { type: "text", short: "o", hint: "FILE", help: "the quantized model (default: MODEL.int8.onnx)" },
} as const satisfies Options;

const { budget: _budget, scheme: _scheme, start: _start, costTable: _costTable, ...CHOOSE } = DECIDE;
export const QAT_TRAIN = {
  ...DATA,
  plan: { type: "text", hint: "FILE", help: "the plan to start from (default: the one that qc plan makes)" },
  ...CHOOSE,
  steps: { type: "number", hint: "N", integer: true, min: 0, default: 400, help: "updates; 0 changes nothing" },
  batch: { type: "number", hint: "N", integer: true, min: 1, default: 32, help: "samples in one update" },
  rate: { type: "number", hint: "R", min: 0, help: "learning rate, in codes of a weight per update (default 0.002)" },
  optimizer: { type: "choice", of: ["adam", "adamw", "sgd"], default: "adam", help: "how parameters follow their gradients" },
  labels: { type: "flag", help: "learn from the set's labels too, beside the float graph's answers" },
  patience: {
    type: "number",
    hint: "N",
    integer: true,
    min: 0,
    default: 0,
    help: "stop after N judgements without a better one (0: never)",
  },
  resume: { type: "flag", help: "go on where a stopped run was" },
  ...RUN,
  out: { type: "text", short: "o", hint: "FILE", help: "the trained quantized model (default: MODEL.qat.onnx; its plan goes beside it)" },
} as const satisfies Options;

export const QAT_INSERT = {
  plan: { type: "text", hint: "FILE", help: "the plan to put into the graph" },
  form: {
    type: "choice",
    of: ["qdq", "arithmetic"],
    default: "qdq",
    help: "QuantizeLinear and DequantizeLinear, or Div, Round, Clip, Mul for a trainer that gives those no gradient",
  },
  out: { type: "text", short: "o", hint: "FILE", help: "the trainable model (default: MODEL.trainable.onnx; its list goes beside it)" },
} as const satisfies Options;

export const QAT_IMPORT = {
  plan: { type: "text", hint: "FILE", help: "the plan that qc qat insert was given" },
  list: { type: "text", hint: "FILE", help: "the list that qc qat insert wrote" },
  out: { type: "text", short: "o", hint: "FILE", help: "the trained plan (default: MODEL.plan.json)" },
} as const satisfies Options;

export const LINT = {
  target: DECIDE.target,
  withBuilder: {
    type: "flag",
    help: "ask NVIDIA's parser and builder too: a Python with tensorrt_rtx_bindings, on the path or named by QC_TENSORRT_PYTHON",
  },
  sarif: { type: "text", hint: "FILE", help: "write the findings as SARIF 2.1.0, for code scanning" },
} as const satisfies Options;

export const STATS_TABLE = {
  calibrator: {
    ...DECIDE.calibrator,
    of: CALIBRATOR_CHOICES.filter((c) => c !== "auto"),
    default: "entropy",
    help: "how the magnitudes are chosen from the histograms",
  },
  out: { type: "text", short: "o", hint: "FILE", help: "a TensorRT cache, or for onnxruntime .json, .flatbuffers or .txt" },
} as const satisfies Options;

export const OUT = { out: { type: "text", short: "o", hint: "FILE", help: "where to write" } } as const satisfies Options;

export type Parsed<T extends Options> = {
  readonly [K in keyof T]: T[K] extends FlagOption
    ? boolean
    : T[K] extends ListOption
      ? readonly string[]
      : T[K] extends NumberOption
        ? T[K] extends { default: number }
          ? number
          : number | undefined
        : T[K] extends { default: string }
          ? string
          : string | undefined;
};

/** Every option may be left out, as the API takes them. */
export type Wished<T extends Options> = { readonly [K in keyof T]?: Parsed<T>[K] | undefined };

export type QuantizeFlags = Wished<typeof QUANTIZE>;

/** `verifySamples` -> `verify-samples`. */
export function flagOf(key: string): string {
  return key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
}

/** JSON Schema of an option table, for config files and editors. */
export function schemaOf(table: Options): object {
  const properties: Record<string, object> = {};
  for (const [key, o] of Object.entries(table))
    properties[key] = { ...typeSchema(o), description: o.help, ...("default" in o ? { default: o.default } : {}) };
  return { $schema: "https://json-schema.org/draft/2020-12/schema", type: "object", properties, additionalProperties: false };
}
function typeSchema(o: Option): object {
  switch (o.type) {
    case "flag":
      return { type: "boolean" };
    case "text":
      return { type: "string" };
    case "list":
      return { type: "array", items: { type: "string" } };
    case "number":
      return {
        type: o.integer ? "integer" : "number",
        ...(o.min !== undefined ? { minimum: o.min } : {}),
        ...(o.max !== undefined ? { maximum: o.max } : {}),
      };
    case "choice":
      if (o.file) return { type: "string", pattern: `^(${o.of.join("|")})$|${CHOICE_FILE.source}` };
      return o.suffix === undefined ? { enum: o.of } : { type: "string", pattern: `^(${o.of.join("|")})(${o.suffix}.+)?$` };
    default:
      return o satisfies never;
  }
}

/**
 * Options as a program gives them: unknown keys and values outside the table are errors with a hint, what is missing gets its default.
 * `extra` names keys that are no options of the table (callbacks, signals).
 */
export function settle<const T extends Options>(
  table: T,
  given: Readonly<Record<string, unknown>>,
  extra: readonly string[] = [],
): Parsed<T> {
  const out: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    if (Object.hasOwn(table, key) || extra.includes(key) || value === undefined) continue;
    throw new QcError({ code: "cli/unknown-option", got: key, command: "", nearest: nearest(key, [...Object.keys(table), ...extra]) });
  }
  for (const [key, o] of Object.entries(table)) {
    const value = given[key];
    out[key] = value === undefined ? ("default" in o ? o.default : EMPTY[o.type]) : checkedValue(key, value, o);
  }
  return out as Parsed<T>;
}

/** What an option that was not given and has no default becomes. */
export const EMPTY = { flag: false, list: [] as readonly string[], text: undefined, number: undefined, choice: undefined } as const;

function checkedValue(key: string, value: unknown, o: Option): unknown {
  const bad = (want: string) => new QcError({ code: "cli/bad-value", flag: key, got: String(value), want });
  switch (o.type) {
    case "flag":
      if (typeof value !== "boolean") throw bad("true or false");
      return value;
    case "text":
      if (typeof value !== "string") throw bad("a string");
      return value;
    case "list":
      if (!Array.isArray(value) || !value.every((v) => typeof v === "string")) throw bad("a list of strings");
      return value;
    case "number":
      if (typeof value !== "number" || !inRange(value, o)) throw bad(numberWanted(o));
      return value;
    case "choice":
      if (typeof value !== "string") throw bad(`one of ${o.of.join(", ")}`);
      return parseChoice(key, value, o);
    default:
      return o satisfies never;
  }
}

const UNITS: Readonly<Record<string, number>> = { "": 1, b: 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 1024, mib: 1024 ** 2, gib: 1024 ** 3 };

/** A number as it is typed; sizes may carry a unit. */
export function parseNumber(flag: string, raw: string, o: NumberOption): number {
  const m = /^([-+]?[0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*([a-z]*)$/i.exec(raw.trim());
  const unit = m ? UNITS[m[2]!.toLowerCase()] : undefined;
  const value = m && unit !== undefined && (o.bytes || m[2] === "") ? Number(m[1]) * unit : Number.NaN;
  if (!inRange(value, o)) throw new QcError({ code: "cli/bad-value", flag, got: raw, want: numberWanted(o) });
  return value;
}
function inRange(value: number, o: NumberOption): boolean {
  return (
    Number.isFinite(value) && (!o.integer || Number.isSafeInteger(value)) && value >= (o.min ?? -Infinity) && value <= (o.max ?? Infinity)
  );
}
function numberWanted(o: NumberOption): string {
  if (o.bytes) return "a size such as 512MB or 4GB";
  const kind = o.integer ? "a whole number" : "a number";
  if (o.min !== undefined && o.max !== undefined) return `${kind} from ${o.min} to ${o.max}`;
  return o.min === undefined ? kind : `${kind} of at least ${o.min}`;
}

/** What names a file where names and files are both taken. */
export const CHOICE_FILE = /\.(ya?ml|json)$/;

export function parseChoice(flag: string, raw: string, o: ChoiceOption): string {
  if (o.file && CHOICE_FILE.test(raw)) return raw;
  // `:` belongs to the suffix as well: tensorrt:sm89.
  const head = o.suffix === undefined ? raw : raw.split(o.suffix === "@" ? /[@:]/ : o.suffix)[0]!;
  if (o.of.includes(head) && (head === raw || raw.length > head.length + 1)) return raw;
  throw new QcError({ code: "cli/unknown-value", flag, got: raw, allowed: o.of, nearest: nearest(head, o.of) });
}

/** The candidate at the smallest edit distance, when that is at most a third of the word (at least 2). */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const c of candidates) {
    const d = c.startsWith(word) && word.length >= 2 ? 1 : editDistance(word, c);
    if (d < least) {
      least = d;
      best = c;
    }
  }
  return best;
}

/** Damerau-Levenshtein distance (adjacent swaps count once); three rows. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : Infinity;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1), swap));
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}
