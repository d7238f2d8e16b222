import { error, info, list, plural } from "./format.ts";

export const COSTS = {
  "costs/malformed": (f: { readonly file: string; readonly at: string; readonly detail: string }) =>
    error(
      `Cost table "${f.file}" is malformed at ${f.at}: ${f.detail}`,
      "Make it again with `qc costs`; docs/costs.schema.json has the form.",
    ),
  "costs/mismatch": (f: { readonly file: string; readonly part: string; readonly theirs: string; readonly ours: string }) =>
    error(
      `Cost table "${f.file}" is of another ${f.part}: "${f.theirs}", here "${f.ours}"`,
      "Times of one do not tell those of the other: measure here with `qc costs`.",
    ),
  "costs/missing": (f: { readonly file: string; readonly rows: readonly { readonly node: string; readonly scheme: string }[] }) =>
    error(
      `Cost table "${f.file}" has no time for ${plural(f.rows.length, "choice")}: ${list(f.rows.map((r) => `${r.node} as ${r.scheme}`))}`,
      "Make the table with the recipe that is asked for (`qc costs --recipe`), or pin these layers with --scheme.",
    ),
  "costs/needed": (f: { readonly budget: string }) =>
    info(
      `Limit "${f.budget}" is judged at the end, not planned for: there is no cost table`,
      "Make one with `qc costs MODEL --data SET -o FILE`, and give it with --cost-table.",
    ),
  "costs/no-layer": (f: { readonly file: string; readonly scheme: string; readonly nodes: readonly string[] }) =>
    error(
      `Profile "${f.file}" (${f.scheme}) has no layer for ${plural(f.nodes.length, "product")}: ${list(f.nodes)}`,
      "Profile the engine of this very model with names kept (trtexec --profilingVerbosity=detailed --exportProfile).",
    ),
  "costs/bad-profile": (f: { readonly file: string; readonly detail: string }) =>
    error(
      `"${f.file}" is no layer profile: ${f.detail}`,
      "Give what `trtexec --exportProfile=FILE` writes: a list of layers with averageMs.",
    ),
};
