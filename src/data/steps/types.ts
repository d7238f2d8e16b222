import type { Item, TensorItem } from "../item.ts";

export type Run = (item: Item) => Item | Promise<Item>;

/** One preprocessing step: the JSON schema of its argument, one sentence for the docs, and what makes it from an argument. */
export interface StepRow {
  readonly schema: Readonly<Record<string, unknown>>;
  readonly help: string;
  /** `folder`: of the set file. */
  make(arg: never, folder: string): Run;
}

/** A step that cannot be done; the caller adds sample and step. */
export class StepError extends Error {}

export function tensorOf(item: Item): TensorItem {
  if (item.kind === "tensor") return item;
  throw new StepError(item.kind === "text" ? "it works on numbers, and this is text" : "it works on numbers, and this is an encoded file");
}
