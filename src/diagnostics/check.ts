import { error, info, list, type Section, warning } from "./format.ts";

const db = (x: number) => `${x.toFixed(1)} dB`;
const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

export const CHECK = {
  "check/too-few": (f: { readonly have: number; readonly need: number; readonly what: string }) =>
    warning(`${f.have} samples cannot show a change of ${f.what}; ${f.need} would`, "Give more held-out samples, or widen the gate."),
  "check/optimizer-breaks": (f: { readonly reference: number; readonly deployed: number; readonly level: string }) =>
    warning(
      `onnxruntime's optimizer changes what the quantized graph computes: ${db(f.reference)} at level "disabled", ${db(f.deployed)} at "${f.level}"`,
      'Deploy at graph optimization level "disabled" or "basic", or choose another --target; the report has both figures.',
    ),
  "check/non-finite": (f: {
    readonly output: string;
    readonly sample: string;
    readonly where: "float" | "quantized";
    readonly count: number;
  }) =>
    warning(
      `${f.count} elements of output "${f.output}" are NaN or infinite in the ${f.where} model (first at sample "${f.sample}")`,
      f.where === "float"
        ? "Look at that sample; these elements are left out of the comparison."
        : "A range is too narrow there: see the per-layer table of the report.",
    ),
  "check/not-verified": (f: { readonly reason: string }) =>
    warning(`The quantized model was not compared with the float one: ${f.reason}`, "Give a set with held-out samples (--data)."),
  "check/not-opened": (f: { readonly sizeBytes: number; readonly most: number }) =>
    info(
      `The quantized model of ${gib(f.sizeBytes)} was written without being opened: beyond ${gib(f.most)} a session would take more memory than all else`,
      "Open it where it will run.",
    ),
  "check/simulated": (f: { readonly what: string; readonly target: string }) =>
    info(
      `No runtime here computes in ${f.what}: figures are of a float32 model that rounds where ${f.target} does`,
      "Times of it say nothing about the target; measure there.",
    ),
  "check/output-lost": (f: { readonly output: string; readonly sqnr: number; readonly n: number }) =>
    warning(
      `Output "${f.output}" has only ${db(f.sqnr)} over ${f.n} samples: more noise than is useful`,
      "See where the error starts in the report's per-layer table; leave that layer in float with --skip, or use --effort default.",
    ),
  "check/shape-differs": (f: {
    readonly output: string;
    readonly float: readonly number[];
    readonly quantized: readonly number[];
    readonly sample: string;
  }) =>
    error(
      `Output "${f.output}" has shape [${f.float}] in the float model and [${f.quantized}] in the other (sample "${f.sample}")`,
      "Compare two files of the same model.",
    ),
  "check/outputs-differ": (f: { readonly missing: readonly string[]; readonly have: readonly string[] }) =>
    error(`The quantized model has no output ${list(f.missing)}; it has ${list(f.have)}`, "Compare two files of the same model."),
  "check/below-budget": (f: { readonly limit: string; readonly got: string }) =>
    error(
      `The budget "${f.limit}" is missed: ${f.got}`,
      "Raise the limit, use --effort best, or leave sensitive layers in float with --skip.",
    ),
} as const satisfies Section;
