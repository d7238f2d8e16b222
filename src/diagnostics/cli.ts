import { error, info, list, plural, type Section, warning } from "./format.ts";

const hint = (nearest: string | undefined, otherwise: string) => (nearest === undefined ? otherwise : `Did you mean "${nearest}"?`);

export const CLI = {
  "cli/unknown-value": (f: {
    readonly flag: string;
    readonly got: string;
    readonly allowed: readonly string[];
    readonly nearest?: string | undefined;
  }) => error(`Invalid value "${f.got}" for ${f.flag}`, hint(f.nearest, `Use one of: ${f.allowed.join(", ")}.`)),
  "cli/bad-value": (f: { readonly flag: string; readonly got: string; readonly want: string }) =>
    error(`Invalid value "${f.got}" for ${f.flag}: it takes ${f.want}`, "Run the command with --help for an example."),
  "cli/unknown-option": (f: { readonly got: string; readonly command: string; readonly nearest?: string | undefined }) =>
    error(`Unknown option "${f.got}"`, hint(f.nearest, `Run "qc ${f.command} --help" for the list.`)),
  "cli/unknown-command": (f: { readonly got: string; readonly nearest?: string | undefined }) =>
    error(`Unknown command "${f.got}"`, hint(f.nearest, 'Run "qc --help" for the list.')),
  "cli/missing-value": (f: { readonly flag: string }) => error(`${f.flag} needs a value`, "Run the command with --help for an example."),
  "cli/missing-argument": (f: { readonly name: string; readonly command: string }) =>
    error(`"qc ${f.command}" needs ${f.name}`, `Run "qc ${f.command} --help" for an example.`),
  "cli/too-many-arguments": (f: { readonly command: string; readonly got: readonly string[] }) =>
    error(`Too many arguments for "qc ${f.command}": "${f.got.join('", "')}"`, "A path with spaces needs quotes."),
  "cli/needs-option": (f: { readonly command: string; readonly flag: string; readonly why: string }) =>
    error(`"qc ${f.command}" needs ${f.flag}: ${f.why}`, `Run "qc ${f.command} --help" for an example.`),
  "cli/preset-companion": (f: { readonly preset: string; readonly missing: readonly string[]; readonly folders: readonly string[] }) =>
    warning(
      `Not beside the model: ${list(f.missing)}, which ${f.preset} reads from the folder that was written`,
      `Put what is missing into "${f.folders[0]}" and build again, or into the written folder.`,
    ),
  "cli/would-overwrite": (f: { readonly path: string; readonly what: string }) =>
    error(`"${f.path}" is ${f.what}`, "Choose another output with -o."),
  "cli/unwritable": (f: { readonly path: string; readonly reason: string }) =>
    error(`Cannot write "${f.path}": ${f.reason}`, "Choose a place that can be written with -o."),
  "cli/interrupted": () => warning("Interrupted", "No file was left behind. Run the command again to start over."),
  "cli/over-memory": (f: { readonly limit: string; readonly used: string }) =>
    error(`This run uses ${f.used}, more than --memory ${f.limit}`, "Raise --memory, or give fewer or smaller samples."),
  "cli/no-data": (f: { readonly recipe: string; readonly gain: string }) =>
    info(`No data was given, so this makes ${f.recipe}`, `With --data SET, ${f.gain}.`),
  "cli/no-such-node": (f: { readonly got: string; readonly nearest?: string | undefined }) =>
    error(`No node and no value is called "${f.got}"`, hint(f.nearest, 'Names are in the output of "qc inspect MODEL --nodes".')),
  "cli/already-quantized": (f: { readonly nodes: number; readonly example: string }) =>
    error(
      `The model is quantized already: ${f.nodes} quantization operators, the first is "${f.example}"`,
      "Give the float model, or use --requantize to go back to float weights and ranges first.",
    ),
  "cli/input-type": (f: { readonly input: string }) =>
    error(
      `Graph input "${f.input}" is not a tensor of a known type`,
      "Sequences, maps and optionals cannot be fed from samples; export the model with tensor inputs.",
    ),
  "cli/requantized": (f: { readonly pairs: number; readonly constants: number }) =>
    info(
      `The model was quantized: ${plural(f.pairs, "pair")} on activations taken out, ${plural(f.constants, "constant")} made float`,
      "What rounding lost stays lost; the float model would give a better result.",
    ),
  "cli/no-float-form": (f: { readonly nodes: readonly string[] }) =>
    error(`No way back to float for ${list(f.nodes)}`, "Give the float model; only QuantizeLinear and DequantizeLinear can be taken out."),
  "cli/bad-config": (f: { readonly file: string; readonly key: string; readonly nearest?: string | undefined }) =>
    error(`Unknown key "${f.key}" in "${f.file}"`, hint(f.nearest, "See the option table in the README.")),
  "cli/no-builder": (f: { readonly tried: readonly string[] }) =>
    error(
      `No Python here has tensorrt_rtx_bindings: tried ${list(f.tried)}`,
      "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings (NVIDIA's licence), and name that Python in QC_TENSORRT_PYTHON.",
    ),
  "cli/builder-failed": (f: { readonly python: string; readonly reason: string }) =>
    error(`The builder gave no answer: ${f.reason}`, `Run it by hand with "${f.python}", or leave out --with-builder.`),
  "cli/builder-target": (f: { readonly target: string }) =>
    error(`--with-builder asks NVIDIA's builder, and the target is "${f.target}"`, "Use it with --target tensorrt."),
  "cli/not-built": (f: { readonly what: string; readonly missing: string }) =>
    error(`${f.what}: "${f.missing}" is not there`, "Run the command that makes it first, or take a release that ships it."),
} as const satisfies Section;
