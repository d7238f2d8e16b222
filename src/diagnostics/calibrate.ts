import { error, list, plural, type Section, warning } from "./format.ts";

const pct = (x: number): string => `${(100 * x).toFixed(1)} %`;

export const CALIBRATE = {
  "calibrate/bad-table": (f: { readonly path: string; readonly reason: string }) =>
    error(
      `"${f.path}" is no calibration table: ${f.reason}`,
      "Give a TensorRT calibration cache, or a table of onnxruntime (.json, .flatbuffers, or lines of name and value).",
    ),
  "calibrate/table-name": (f: { readonly name: string }) =>
    error(`The value name ${JSON.stringify(f.name)} holds a line break: a table cannot hold it`, "Rename the value in the model."),
  "calibrate/table-names": (f: { readonly path: string; readonly unknown: readonly string[]; readonly used: number }) =>
    warning(
      `"${f.path}" has ${plural(f.unknown.length, "name")} that the prepared graph has not: ${list(f.unknown)}; ${f.used} others are used`,
      "Values without a range stay float, and so do the nodes that need them.",
    ),
  "calibrate/narrow-range": (f: { readonly value: string; readonly kept: number; readonly calibrator: string }) =>
    warning(
      `The range that "${f.calibrator}" chose for "${f.value}" keeps ${(100 * f.kept).toFixed(1)} % of the observed maximum`,
      "Look at its histogram (qc stats show), or use --calibrator auto.",
    ),
  "calibrate/spiky": (f: { readonly value: string; readonly removed: number }) =>
    warning(
      `${pct(f.removed)} of the non-zero values of "${f.value}" sit in spikes of its histogram, which entropy has to leave out`,
      "Prefer --calibrator percentile or auto for this model.",
    ),
  "calibrate/not-finite": (f: { readonly values: readonly { readonly name: string; readonly nan: number; readonly inf: number }[] }) =>
    warning(
      `NaN or infinity in ${plural(f.values.length, "value")} while calibrating: ${list(
        f.values.map((v) => `${v.name} (${v.nan} NaN, ${v.inf} infinite)`),
      )}`,
      "They were left out of the ranges; find the sample that causes them, or leave the node in float with --skip.",
    ),
  "calibrate/constant": (f: { readonly values: readonly { readonly name: string; readonly value: number }[] }) =>
    warning(
      `${plural(f.values.length, "value")} never changed while calibrating: ${list(f.values.map((v) => `${v.name} = ${v.value}`))}`,
      "If the network is not meant to ignore this, check the calibration data and its preprocessing.",
    ),
  "calibrate/never-ran": (f: { readonly values: readonly string[] }) =>
    warning(
      `${plural(f.values.length, "value")} had no element in any sample: ${list(f.values)}`,
      "They stay in float; give samples that take this branch of the network.",
    ),
  "calibrate/not-float": (f: { readonly value: string; readonly dtype: string }) =>
    error(`"${f.value}" has type ${f.dtype}; only float values have ranges`, "Leave it out of the values to observe."),
  "calibrate/no-samples": (f: { readonly set: string }) =>
    error(`No calibration sample in the set "${f.set}"`, "Give samples for the role calibrate, or fewer shards."),
  "calibrate/broken-sequence": (f: { readonly set: string; readonly sample: number; readonly missing: number }) =>
    error(
      `Sample ${f.sample} of "${f.set}" follows on sample ${f.missing} of its sequence, which is not among the samples drawn`,
      "Draw whole sequences, or sequences from their beginning on.",
    ),
  "calibrate/merge-mismatch": (f: { readonly what: string; readonly left: string; readonly right: string }) =>
    error(
      `Stats with different ${f.what} do not merge: "${f.left}" and "${f.right}"`,
      "Collect both from the same model with the same qc.",
    ),
  "calibrate/merge-overlap": (f: { readonly samples: number }) =>
    error(`The stats share ${plural(f.samples, "sample")}, which would count twice`, "Merge shards of disjoint samples (--shard I/N)."),
  "calibrate/stats-stale": (f: { readonly what: string; readonly stats: string; readonly model: string }) =>
    error(`The stats belong to another ${f.what}: "${f.stats}", here "${f.model}"`, "Collect them again: qc calibrate."),
  "calibrate/stats-invalid": (f: { readonly file: string; readonly detail: string }) =>
    error(`"${f.file}" is no valid stats file: ${f.detail}`, "Collect the statistics again: qc calibrate."),
  "calibrate/stats-lack": (f: { readonly values: readonly string[] }) =>
    error(`The stats lack ${plural(f.values.length, "value")} that the plan needs: ${list(f.values)}`, "Collect them again: qc calibrate."),
  "calibrate/needs-histogram": (f: { readonly calibrator: string; readonly value: string }) =>
    error(
      `The stats hold only the range of "${f.value}"; "${f.calibrator}" needs its histogram`,
      "Collect again with this calibrator, or use minmax.",
    ),
} as const satisfies Section;
