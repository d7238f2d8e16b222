import { error, info, list, plural, type Section, warning } from "./format.ts";

export const QAT = {
  "qat/no-path": (f: { readonly nodes: readonly string[] }) =>
    error(
      `No gradient reaches a weight: the way is blocked at ${list(f.nodes)}`,
      "See docs/ops.md for the operators that are differentiated.",
    ),
  "qat/diverged": (f: { readonly step: number; readonly kept?: number }) =>
    warning(
      `The training loss is not a number from step ${f.step} on; training stopped`,
      `The best checkpoint before it is kept${f.kept === undefined ? "" : ` (step ${f.kept})`}. Lower the learning rate, or bound the gradient norm.`,
    ),
  "qat/no-data": (f: { readonly set: string }) =>
    error(`"${f.set}" has no samples to train on`, "Training uses the calibrate role: give it samples in the set's split."),
  "qat/few-samples": (f: { readonly set: string; readonly samples: number; readonly wish: number }) =>
    warning(
      `"${f.set}" has ${plural(f.samples, "sample")} to train on: fewer than ${f.wish} are soon learned by heart`,
      "Add samples without labels; what is kept is the best on the select samples, the start included.",
    ),
  "qat/batch-of-one": (f: { readonly batch: number; readonly why: string }) =>
    info(
      `The graph does not run with a batch of ${f.batch} (${f.why}): it is trained one sample at a time`,
      "Export the model with a dynamic batch axis to train faster.",
    ),
  "qat/nothing-to-train": (f: { readonly recipe: string }) =>
    error(`The plan (recipe ${f.recipe}) has no site that training could move`, "Train a plan with integer weights or static activations."),
  "qat/frozen": (f: { readonly params: readonly string[]; readonly blocked: readonly string[] }) =>
    warning(
      `${plural(f.params.length, "tensor")} cannot be trained, no gradient reaches them: ${list(f.params)}`,
      f.blocked.length > 0 ? `The way is blocked at ${list(f.blocked)}.` : "They do not influence the compared outputs.",
    ),
  "qat/no-logits": (f: { readonly set: string }) =>
    error(
      `The labels of "${f.set}" fit no output: the first has neither class scores nor a shape`,
      "Train without labels: the float graph teaches.",
    ),
  "qat/label-shape": (f: { readonly set: string; readonly want: number; readonly samples: readonly string[] }) =>
    error(
      `${plural(f.samples.length, "sample")} of "${f.set}" have no label of ${plural(f.want, "number")}: ${list(f.samples)}`,
      "Labels of an output of values have its shape. Correct the set, or train without labels.",
    ),
  "qat/label-range": (f: { readonly set: string; readonly classes: number; readonly samples: readonly string[] }) =>
    error(
      `${plural(f.samples.length, "sample")} of "${f.set}" have no label in 0…${f.classes - 1}: ${list(f.samples)}`,
      "Labels are class numbers from 0. Correct the set, or train without labels.",
    ),
  "qat/unlike-samples": (f: {
    readonly input: string;
    readonly first: string;
    readonly second: string;
    readonly shapes: readonly (readonly number[])[];
  }) =>
    error(
      `Samples "${f.first}" and "${f.second}" cannot share a batch: input "${f.input}" is [${f.shapes[0]!.join(", ")}] and [${f.shapes[1]!.join(", ")}]`,
      "Train with a batch of 1, or make the samples one size.",
    ),
  "qat/foreign-list": (f: { readonly part: "structure" | "weights" }) =>
    error(`The list belongs to another model (its ${f.part} differs)`, "Give the plan and the list that qc qat insert used and wrote."),
  "qat/bad-list": (f: { readonly file: string; readonly why: string }) =>
    error(`"${f.file}" cannot be read as a list of trainable tensors: ${f.why}`, "It is written by qc qat insert, beside the model."),
  "qat/import-faults": (f: { readonly faults: readonly { readonly name: string; readonly why: string }[] }) =>
    error(
      `${plural(f.faults.length, "trained tensor")} cannot be taken back: ${list(f.faults.map((x) => `${x.name} ${x.why}`))}`,
      "The trained file must keep the initializer names of the list; scales stay finite and above 0.",
    ),
  "qat/bad-checkpoint": (f: { readonly file: string; readonly why: string }) =>
    error(
      `"${f.file}" is no checkpoint of this run: ${f.why}`,
      "Resume with the model, plan, data and options that it was made with, or start anew without --resume.",
    ),
} as const satisfies Section;
