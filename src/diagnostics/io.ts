import { error, type Section } from "./format.ts";

export const IO = {
  "io/not-found": (f: { readonly path: string }) => error(`No file at "${f.path}"`, "Check the path."),
} as const satisfies Section;
