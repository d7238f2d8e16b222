import { error, list, type Section } from "./format.ts";

export const QAT = {
  "qat/no-path": (f: { readonly nodes: readonly string[] }) =>
    error(
      `No gradient reaches a weight: the way is blocked at ${list(f.nodes)}`,
      "See docs/ops.md for the operators that are differentiated.",
    ),
  "qat/diverged": (f: { readonly step: number }) =>
    error(
      `The training loss is not a number from step ${f.step} on`,
      "The best checkpoint before it is kept. Lower the learning rate, or bound the gradient norm.",
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
} as const satisfies Section;
