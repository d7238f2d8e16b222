import { error, info, list, plural, type Section, warning } from "./format.ts";

const meant = (nearest: string | undefined, known: readonly string[]): string =>
  nearest !== undefined ? `Did you mean "${nearest}"?` : known.length > 0 ? `Known: ${known.join(", ")}.` : "There is none to choose.";

export const PLAN = {
  "plan/indivisible-block": (f: { readonly size: number; readonly weights: readonly { readonly name: string; readonly dim: number }[] }) =>
    error(
      `Block size ${f.size} does not divide ${plural(f.weights.length, "weight")}: ${list(f.weights.map((w) => `${w.name} (K=${w.dim})`))}`,
      "Choose a block size that divides them, or leave them out with --skip.",
    ),
  "plan/unknown-target": (f: {
    readonly spec: string;
    readonly what: string;
    readonly given: string;
    readonly known: readonly string[];
    readonly nearest: string | undefined;
  }) => error(`Target "${f.spec}": unknown ${f.what} "${f.given}"`, meant(f.nearest, f.known)),
  "plan/unknown-recipe": (f: { readonly given: string; readonly known: readonly string[]; readonly nearest: string | undefined }) =>
    error(`Unknown recipe "${f.given}"`, meant(f.nearest, f.known)),
  "plan/recipe-unavailable": (f: { readonly recipe: string; readonly target: string; readonly why: string }) =>
    error(`Recipe "${f.recipe}" is not available for target "${f.target}": ${f.why}`, "Choose another recipe or target."),
  "plan/skip-without-match": (f: { readonly pattern: string; readonly nearest: string | undefined }) =>
    error(
      `--skip "${f.pattern}" matches no node`,
      f.nearest !== undefined ? `Did you mean "${f.nearest}"?` : "List the nodes with `qc inspect`.",
    ),
  "plan/not-finite": (f: { readonly value: string; readonly node: string }) =>
    error(`Weight "${f.value}" of node "${f.node}" holds NaN or infinity`, "Repair the model, or leave the node out with --skip."),
  "plan/no-stats": (f: { readonly recipe: string }) =>
    error(`Recipe "${f.recipe}" needs statistics of the activations`, "Give data with --data, or statistics with --stats."),
  "plan/rest-unchecked": (f: { readonly to: string }) =>
    warning(
      `Whether activations overflow ${f.to} is not known: there are no ranges`,
      "Give data with --data, so that what overflows stays float32.",
    ),
  "plan/rest-kept": (f: { readonly to: string; readonly values: readonly { readonly value: string; readonly because: string }[] }) =>
    info(
      `${plural(f.values.length, "value")} and the nodes around them stay float32 instead of ${f.to}: ${list(f.values.map((v) => `${v.value} (${v.because})`))}`,
      "The plan lists them all.",
    ),
  "plan/rest-error": (f: {
    readonly to: string;
    readonly beforeDb: number;
    readonly afterDb: number;
    readonly groups: readonly { readonly what: string; readonly gainDb: number }[];
  }) =>
    info(
      f.groups.length === 0
        ? `${f.to} leaves ${f.beforeDb.toFixed(1)} dB at the outputs on select samples, and no group of nodes alone is the cause`
        : `${f.to} alone would leave ${f.beforeDb.toFixed(1)} dB at the outputs on select samples; with float32 for ${list(f.groups.map((g) => `${g.what} (${g.gainDb.toFixed(1)} dB)`))} it is ${f.afterDb.toFixed(1)} dB`,
      f.groups.length === 0 ? "Use bfloat16 or float32 if that is too little." : "The plan lists the values.",
    ),
  "plan/nothing-quantized": (f: { readonly nodes: number; readonly why: string }) =>
    warning(
      `No node was quantized: ${plural(f.nodes, "node")} left in float, most of them because ${f.why}`,
      "Look at the reasons with `qc explain`.",
    ),
  "plan/range-unsound": (f: { readonly value: string; readonly bulkDb: number; readonly nodes: readonly string[] }) =>
    warning(
      `An 8-bit range over "${f.value}" would leave ${f.bulkDb.toFixed(1)} dB of all but its largest values: ${list(f.nodes)} stay float`,
      "Rare values are far larger than the rest. See `qc stats show`.",
    ),
  "plan/recurrent": (f: { readonly nodes: readonly string[]; readonly recipe: string }) =>
    info(
      `The network is recurrent (${list(f.nodes)}): its errors would come back to it step after step, so recipe auto takes ${f.recipe}`,
      "--recipe int8 quantizes activations with static ranges all the same.",
    ),
  "plan/suspect-float": (f: { readonly value: string; readonly db: number; readonly gainDb: number; readonly nodes: readonly string[] }) =>
    warning(
      `8-bit codes of "${f.value}" keep ${f.db.toFixed(1)} dB of it: ${list(f.nodes)} stay float, which takes ${f.gainDb.toFixed(1)} dB of noise off the outputs`,
      "Look at the value with `qc stats show`; other schemes for the node may do better.",
    ),
  "plan/drop-unknown": (f: { readonly budget: string; readonly samples: number }) =>
    warning(
      `The loss of the metric in "${f.budget}" cannot be measured while searching: ${plural(f.samples, "sample")} without labels, or a set without a metric`,
      "Give the set a metric and labelled `select` samples. Layers keep their best quantized scheme; the verdict is from held-out samples.",
    ),
  "plan/malformed": (f: { readonly file: string; readonly at: string; readonly detail: string }) =>
    error(
      `${f.file} is not a plan: ${f.at}: ${f.detail}`,
      "Write it again with `qc plan`, or repair this place; docs/plan.schema.json has the form.",
    ),
  "plan/tensors-mismatch": (f: { readonly file: string; readonly want: string; readonly got: string }) =>
    error(
      `${f.file} is not the file that the plan was written with (sha256 ${f.got.slice(0, 12)}…, the plan says ${f.want.slice(0, 12)}…)`,
      "Keep plan.json and plan.tensors together.",
    ),
  "plan/illegal": (f: { readonly constraint: string; readonly at: string; readonly detail: string }) =>
    error(`The plan breaks ${f.constraint} at ${f.at}: ${f.detail}`, "Repair the plan, or make a new one with `qc plan`."),
  "plan/wrong-model": (f: { readonly part: "structure" | "weights" | "prepare"; readonly want: string; readonly got: string }) =>
    error(
      `The plan is for another model: ${f.part} ${f.got.slice(0, 12)}…, the plan says ${f.want.slice(0, 12)}…`,
      f.part === "prepare"
        ? "It was made with another version of the rewrite rules: plan again."
        : "Apply it to the model that it was made from.",
    ),
  "plan/wrong-target": (f: { readonly want: string; readonly got: string }) =>
    error(`The plan is for target "${f.want}", not for "${f.got}"`, "Plan again for this target; the statistics can be used again."),
  "plan/not-improved": (f: { readonly why: string }) =>
    info(`The plan stays as calibrated: ${f.why}`, "Give a set of independent samples with some for selection, or use --effort fast."),
  "plan/not-refined": (f: { readonly why: string }) =>
    info(
      `Activation ranges stay the calibrator's: no gradients of the network: ${f.why}`,
      "Nothing is wrong; other steps need no gradients.",
    ),
  "plan/not-solved": (f: { readonly weights: readonly string[]; readonly why: string }) =>
    info(
      `${plural(f.weights.length, "weight")} ${f.weights.length === 1 ? "is" : "are"} rounded to nearest: ${list(f.weights)}: ${f.why}`,
      "Nothing is wrong; other layers are rounded by output error.",
    ),
} as const satisfies Section;
