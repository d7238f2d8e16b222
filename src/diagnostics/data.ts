import { error, type Section } from "./format.ts";

export const DATA = {
  "data/empty": (f: { readonly set: string; readonly role: string }) =>
    error(`The set "${f.set}" has no sample for "${f.role}"`, "Give more samples, or change the split in the set file."),
} as const satisfies Section;
