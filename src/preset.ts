import type { ArtifactWish, BuildConfig, ModelConfig, Preset } from "./build-config.ts";
import { type Diagnostic, QcError } from "./diagnostics.ts";
import { readModel, saveModel } from "./graph/onnx/index.ts";
import { writeAtomic } from "./io/atomic.ts";
import { LIMITS } from "./io/limits.ts";
import { fileNameOf, folderOf, isFile, joinPath, namesIn } from "./io/path.ts";
import { readFile } from "./io/source.ts";
import { parseNumber } from "./options.ts";
import { jsonText } from "./outputs.ts";

/**
 * The files that transformers.js looks for: its `dtype` chooses the suffix (src/utils/dtypes.js of version 4). The whole folder is what its
 * `from_pretrained` takes: `config.json` and the tokenizer above, models in `onnx/`, external data in `onnx/<file>_data`.
 */
export const TRANSFORMERS_JS = "transformers.js";

interface FileRow {
  readonly suffix: string;
  /** undefined: the model as it is. */
  readonly recipe: string | undefined;
  /** When samples are given: what is calibrated is better than what is computed while running. */
  readonly withData?: string;
  readonly target: string;
  readonly float?: "float16";
}
/** Targets: MatMulNBits and GatherBlockQuantized have kernels on WebGPU, in WebAssembly and on the CPU; 8-bit activations are for the CPU. */
const FILES: readonly FileRow[] = [
  { suffix: "", recipe: undefined, target: "portable" },
  { suffix: "_fp16", recipe: "fp16", target: "portable" },
  { suffix: "_int8", recipe: "int8-tokens", target: "ort-cpu" },
  { suffix: "_uint8", recipe: "uint8-dynamic", target: "ort-cpu" },
  { suffix: "_quantized", recipe: "int8-tokens", withData: "int8", target: "ort-cpu" },
  { suffix: "_q4", recipe: "int4-weights", target: "ort-webgpu" },
  { suffix: "_q4f16", recipe: "int4-weights", float: "float16", target: "ort-webgpu" },
  { suffix: "_bnb4", recipe: "nf4-weights", target: "ort-cpu" },
];

/** Where an artefact goes: a model in a folder of its own, without what belongs to it here (plan, report). */
export interface Layout {
  readonly folder: string;
  /** A model that would be larger keeps its constants in `<file>_data`. */
  readonly inlineBytes: number;
}

export const transformersJs: Preset = (name, model, config) => {
  const layout: Layout = { folder: "onnx", inlineBytes: inlineBytes(model) };
  const given = model.data === undefined ? {} : { data: model.data };
  return FILES.filter((f) => model.recipes === undefined || model.recipes.includes(f.suffix.slice(1))).map((f) => ({
    name: name + f.suffix,
    model: model.file,
    layout,
    ...(f.recipe === undefined
      ? { copy: true as const, options: {} }
      : {
          options: {
            ...config.options,
            ...model.options,
            ...given,
            target: f.target,
            recipe: (model.data === undefined ? undefined : f.withData) ?? f.recipe,
            ...(f.float && { float: f.float }),
          },
        }),
  }));
};

function inlineBytes(model: ModelConfig): number {
  if (model.inline === undefined) return LIMITS.inlineBytes;
  return parseNumber("inline", String(model.inline), { type: "number", hint: "BYTES", bytes: true, min: 0, help: "" });
}

/** A config without a file: `qc build SOURCE --preset transformers.js`. A folder gives every model in it, a file the one that is named `model`. */
export function presetConfig(
  source: string,
  o: { readonly preset: string; readonly out?: string | undefined; readonly data?: string | undefined },
): BuildConfig {
  const one = isFile(source);
  const folders = one ? [] : [source, joinPath(source, "onnx")];
  const files = one ? [source] : folders.flatMap((f) => namesIn(f).map((n) => joinPath(f, n))).filter((f) => /\.onnx$/i.test(f));
  const made = new RegExp(
    `(${FILES.map((f) => f.suffix)
      .filter((s) => s !== "")
      .join("|")})\\.onnx$`,
  );
  const kept = files.filter((f) => one || !made.test(f));
  if (kept.length === 0) throw new QcError({ code: "io/not-found", path: one ? source : joinPath(source, "*.onnx") }, { exitCode: 1 });
  const out = o.out ?? `${source.replace(/\.onnx$/i, "").replace(/[\\/]+$/, "")}.${o.preset}`;
  const name = (f: string) => (one ? "model" : fileNameOf(f).replace(/\.onnx$/i, ""));
  return {
    out,
    cache: `${out}.qc-cache`,
    models: Object.fromEntries(
      kept.map((file) => [name(file), { file, preset: o.preset, ...(o.data === undefined ? {} : { data: o.data }) }]),
    ),
  };
}

/** Writes the model again as the layout wants it: in one file, or with `<file>_data` beside it. Returns the files. */
export function layOut(path: string, to: string, layout: Layout): readonly string[] {
  const model = readModel(readFile(path, LIMITS.modelBytes), { label: path, folder: folderOf(path) });
  const data = `${fileNameOf(to)}_data`;
  saveModel(model, to, { inlineBytes: layout.inlineBytes, dataName: data });
  return [to, ...(isFile(joinPath(folderOf(to), data)) ? [joinPath(folderOf(to), data)] : [])];
}

/** What the library reads beside the models. */
const COMPANION = /\.(json|jinja|model)$|^(vocab|merges|spm|sentencepiece).*\.(txt|model)$/;

/**
 * Copies configuration and tokenizer from beside the models (or from above, where those lie in `onnx/`) and says in `config.json` which
 * models have external data.
 */
export function copyCompanions(
  models: readonly string[],
  out: string,
  external: readonly string[],
  report: (d: Diagnostic) => void,
): readonly string[] {
  const folders = new Set(models.flatMap((m) => [folderOf(m), ...(fileNameOf(folderOf(m)) === "onnx" ? [folderOf(folderOf(m))] : [])]));
  const files = new Map<string, string>();
  for (const folder of folders)
    for (const n of namesIn(folder)) if (COMPANION.test(n) && isFile(joinPath(folder, n))) files.set(n, joinPath(folder, n));
  const missing = ["config.json", "tokenizer.json"].filter(
    (n) => !files.has(n) && !(n === "tokenizer.json" && files.has("preprocessor_config.json")),
  );
  if (missing.length > 0) report({ code: "cli/preset-companion", preset: TRANSFORMERS_JS, missing, folders: [...folders] });
  for (const [n, file] of files) {
    if (n === "config.json") continue;
    writeAtomic(joinPath(out, n), readFile(file));
  }
  const config = files.get("config.json");
  if (config !== undefined) writeAtomic(joinPath(out, "config.json"), withExternal(config, external));
  return [...files.keys()].sort();
}

/** `transformers.js_config.use_external_data_format`: how many data files each model has. */
function withExternal(path: string, external: readonly string[]): Uint8Array | string {
  const bytes = readFile(path);
  if (external.length === 0) return bytes;
  const key = "transformers.js_config";
  const config = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
  const own = (config[key] ?? {}) as Record<string, unknown>;
  const known = typeof own["use_external_data_format"] === "object" ? (own["use_external_data_format"] as object) : {};
  const now = Object.fromEntries([...external].sort().map((n) => [n, 1]));
  return jsonText({ ...config, [key]: { ...own, use_external_data_format: { ...known, ...now } } });
}

export const isPresetModel = (m: ModelConfig): boolean => m.preset === TRANSFORMERS_JS;
export type PresetWish = Omit<ArtifactWish, "gate" | "rounds">;
