import { resolve } from "node:path";
import { fileItem } from "../sources/files.ts";
import { StepError, type StepRow } from "./types.ts";

/** A path in a table → the file. */
export const OPEN: StepRow = {
  schema: { anyOf: [{ type: "null" }, { type: "string", minLength: 1 }] },
  help: "text → the file of that path, below this folder (the set file's)",
  make(below: string | null, folder: string) {
    const root = resolve(folder, below ?? ".");
    return (item) => {
      if (item.kind === "file") return item;
      const path = item.kind === "text" ? item.text : item.dtype === "string" ? String(item.data[0]) : undefined;
      if (path === undefined) throw new StepError("it works on the text of a path, and these are numbers");
      return fileItem(resolve(root, path));
    };
  },
};
