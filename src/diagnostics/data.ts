import { error, info, list, plural, type Section, warning } from "./format.ts";

export interface InSet {
  readonly set: string;
}
export interface AtInput extends InSet {
  readonly input: string;
  /** What the graph wants: `float32[N,3,224,224]`. */
  readonly want: string;
}

export const DATA = {
  "data/empty": (f: { readonly set: string; readonly role: string }) =>
    error(`The set "${f.set}" has no sample for "${f.role}"`, "Give more samples, or change the split in the set file."),
  "data/no-samples": (f: InSet) => error(`The set "${f.set}" is empty`, "Check the path or the pattern under `source`."),
  "data/unknown-form": (f: InSet & { readonly why: string }) =>
    error(
      `"${f.set}" is no data set: ${f.why}`,
      "Give a .npz, .npy, set.yaml, loader module (.mjs), or a folder of samples; see docs/data.md.",
    ),
  "data/needs-set-file": (f: InSet & { readonly kind: string }) =>
    error(
      `"${f.set}" holds ${f.kind}, which need preprocessing`,
      "Write a set.yaml that says how (qc data init MODEL makes one to fill in).",
    ),
  "data/config": (f: {
    readonly file: string;
    readonly line: number | undefined;
    readonly at: string;
    readonly detail: string;
    readonly nearest?: string;
    readonly allowed?: readonly string[];
    /** The page that says what the file may hold; default that of set files. */
    readonly page?: string;
  }) =>
    error(
      `${f.file}${f.line === undefined ? "" : `:${f.line}`}: ${f.at === "" ? "" : `"${f.at}" `}${f.detail}`,
      f.nearest !== undefined
        ? `Did you mean "${f.nearest}"?`
        : f.allowed !== undefined
          ? `Allowed: ${f.allowed.join(", ")}.`
          : `See ${f.page ?? "docs/data.md"} for what it may hold.`,
    ),
  "data/checksum": (f: { readonly file: string; readonly want: string; readonly got: string }) =>
    error(
      `"${f.file}" has the SHA-256 ${f.got}; the set file says ${f.want}`,
      "Fetch the data again, or correct `sha256` if the data changed on purpose.",
    ),
  "data/unused-array": (f: InSet & { readonly arrays: readonly string[] }) =>
    warning(
      `Arrays of "${f.set}" that no input of the graph takes: ${list(f.arrays)}`,
      "Name arrays like the graph's inputs; labels need a set file (`labels:`).",
    ),
  "data/chosen-array": (f: InSet & { readonly array: string; readonly input: string }) =>
    info(
      `"${f.array}" of "${f.set}" feeds the graph's only input "${f.input}": its shape fits, its name differs`,
      "Name the array like the input to be sure.",
    ),
  "data/missing-input": (f: AtInput & { readonly have: readonly string[] }) =>
    error(
      `The set "${f.set}" has nothing for input "${f.input}" (${f.want}); it has ${list(f.have, 6) || "nothing"}`,
      "Name an array like the input, or map it in a set file: inputs: { INPUT: { from: ARRAY } }; a fixed value goes by `constant:`.",
    ),
  "data/no-such-input": (f: InSet & { readonly input: string; readonly nearest?: string; readonly have: readonly string[] }) =>
    error(
      `The set "${f.set}" names an input "${f.input}" that the graph does not have`,
      f.nearest === undefined ? `The graph's inputs are ${f.have.join(", ")}.` : `Did you mean "${f.nearest}"?`,
    ),
  "data/no-such-field": (f: InSet & { readonly field: string; readonly nearest?: string; readonly have: readonly string[] }) =>
    error(
      `"${f.set}" has no "${f.field}"`,
      f.nearest === undefined ? `It has ${f.have.join(", ") || "nothing"}.` : `Did you mean "${f.nearest}"?`,
    ),
  "data/shape": (f: AtInput & { readonly sample: string; readonly got: string; readonly remedy: string }) =>
    error(`Input "${f.input}" wants ${f.want}; sample "${f.sample}" of "${f.set}" gives ${f.got}`, f.remedy),
  "data/dtype": (f: AtInput & { readonly sample: string; readonly got: string; readonly remedy: string }) =>
    error(`Input "${f.input}" wants ${f.want}; sample "${f.sample}" of "${f.set}" gives ${f.got}`, f.remedy),
  "data/rounded": (f: AtInput & { readonly got: string }) =>
    warning(
      `Input "${f.input}" of "${f.set}" is ${f.got} and is rounded to what the graph takes (${f.want})`,
      "Store the data in the graph's type to be sure that nothing is lost.",
    ),
  "data/not-finite": (f: InSet & { readonly input: string; readonly sample: string; readonly what: string; readonly count: number }) =>
    error(
      `Input "${f.input}" of sample "${f.sample}" (set "${f.set}") holds ${plural(f.count, "value")} of ${f.what}`,
      "Repair or leave out the sample; where infinities are meant (a mask), say `finite: false` for this input in the set file.",
    ),
  "data/step": (f: InSet & { readonly sample: string; readonly step: string; readonly detail: string }) =>
    error(
      `Step "${f.step}" on sample "${f.sample}" of "${f.set}": ${f.detail}`,
      "Check the order and the parameters of the steps in the set file.",
    ),
  "data/sample-unreadable": (f: InSet & { readonly sample: string; readonly detail: string }) =>
    error(`Sample "${f.sample}" of "${f.set}" cannot be read: ${f.detail}`, "Repair or remove it."),
  "data/overlap": (f: InSet & { readonly a: string; readonly b: string; readonly count: number; readonly first: string }) =>
    error(
      `${plural(f.count, "sample")} of "${f.set}" stand in both "${f.a}" and "${f.b}" (first: "${f.first}")`,
      "Each sample has one role: what calibrates or selects must not verify. Take it out of one list.",
    ),
  "data/split-too-large": (f: InSet & { readonly want: number; readonly have: number }) =>
    error(`The split of "${f.set}" asks for ${f.want} samples; there are ${f.have}`, "Make the counts under `split` smaller."),
  "data/index": (f: InSet & { readonly file: string; readonly got: string; readonly size: number }) =>
    error(
      `"${f.file}" names sample ${f.got}, which "${f.set}" does not have (${f.size} samples)`,
      "Use indices from 0, or the samples' own names.",
    ),
  "data/no-held-out": (f: InSet & { readonly size: number }) =>
    warning(
      `The set "${f.set}" has ${plural(f.size, "sample")} and none is left to verify on`,
      "Give more samples: those that calibrate cannot judge the result.",
    ),
  "data/labels": (f: InSet & { readonly detail: string }) =>
    error(`Labels of "${f.set}": ${f.detail}`, "See `labels:` and `metric:` in docs/data.md."),
  "data/metric": (f: { readonly metric: string; readonly detail: string; readonly nearest?: string; readonly known?: readonly string[] }) =>
    error(
      `Metric "${f.metric}": ${f.detail}`,
      f.nearest !== undefined
        ? `Did you mean "${f.nearest}"?`
        : f.known !== undefined
          ? `Known: ${f.known.join(", ")}, or a module (./metric.mjs).`
          : "See `metric:` in docs/data.md.",
    ),
  "data/module": (f: { readonly module: string; readonly detail: string }) =>
    error(`Loader module "${f.module}": ${f.detail}`, "It needs `export async function* samples()`; see docs/data.md."),
} as const satisfies Section;
