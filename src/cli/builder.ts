import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { QcError } from "../diagnostics.ts";
import type { Model, Node } from "../graph/ir.ts";
import { traitOf } from "../graph/ops/index.ts";
import { allNodes, pathOfNode } from "../graph/walk.ts";

/** What NVIDIA's parser and builder say about a file; see `tools/tensorrt-builder.py`, which prints it. */
export interface BuilderAnswer {
  readonly builder: string;
  readonly taken: boolean;
  readonly errors: readonly { readonly node: string; readonly op: string; readonly text: string }[];
  readonly warnings: readonly string[];
  readonly kernels: readonly Kernel[];
}
export interface Kernel {
  readonly type: string;
  readonly inputs: readonly string[];
  readonly constants: readonly string[];
  readonly outputs: readonly string[];
  /** ONNX nodes whose work it does. */
  readonly layers: readonly string[];
}

/** The type in which a product of the model runs. */
export interface RunsIn {
  readonly node: string;
  readonly op: string;
  /** `Int8 × Int8 → Float`; undefined when no kernel names the node (folded, or merged under another name). */
  readonly types: string | undefined;
  readonly kernel: string | undefined;
}

const SCRIPT = resolve(import.meta.dirname, "../../tools/tensorrt-builder.py");
/** The builder needs a card to build for; without one named, the first that has all of int8, fp8 and int4. */
const DEFAULT_ARCH = "sm89";
const TIMEOUT_MS = 600_000;
const LARGEST_ANSWER = 2 ** 28;

/** Pythons to try: the one named in QC_TENSORRT_PYTHON alone, else those on the path. */
function pythons(): readonly string[] {
  const named = process.env["QC_TENSORRT_PYTHON"];
  return named !== undefined && named !== "" ? [named] : ["python3", "python"];
}

/** Asks the builder. Throws `cli/no-builder` when no Python here can import it. */
export async function askBuilder(path: string, arch: string | undefined, signal: AbortSignal): Promise<BuilderAnswer> {
  const python = await findPython(signal);
  const { code, stdout, stderr } = await run(python, [SCRIPT, "--plan", arch ?? DEFAULT_ARCH, resolve(path)], signal);
  const line = stdout.trim().split("\n").at(-1) ?? "";
  if (code !== 0 || line === "") {
    const why = stderr.trim().split("\n").at(-1) ?? "";
    throw new QcError({ code: "cli/builder-failed", python, reason: why === "" ? `it ended with code ${code}` : why });
  }
  return JSON.parse(line) as BuilderAnswer;
}

async function findPython(signal: AbortSignal): Promise<string> {
  const tried = pythons();
  for (const python of tried) if ((await run(python, ["-c", "import tensorrt_rtx_bindings"], signal)).code === 0) return python;
  throw new QcError({ code: "cli/no-builder", tried });
}

function run(
  file: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  return new Promise((done) => {
    execFile(file, args, { signal, timeout: TIMEOUT_MS, maxBuffer: LARGEST_ANSWER }, (e, stdout, stderr) => {
      done({ code: e === null ? 0 : typeof e.code === "number" ? e.code : 1, stdout, stderr });
    });
  });
}

/** Kernels that only prepare or finish a product carry its name too; these types are the product itself. */
const PRODUCT_KERNELS = new Set(["correlation", "deconv", "gemm", "runtime_fusion", "conv", "matmul"]);
const NARROW = ["FP4E2M1", "Int4", "Int8", "FP8"];

/** For each product of the model, the operand types of the kernel that runs it. */
export function productsIn(model: Model, kernels: readonly Kernel[]): RunsIn[] {
  const out: RunsIn[] = [];
  for (const n of allNodes(model)) {
    if (traitOf(n) !== "compute") continue;
    const names = namesOf(n);
    const mine = kernels.filter((k) => k.layers.some((l) => names.includes(l)));
    const kernel = mine.find((k) => PRODUCT_KERNELS.has(k.type)) ?? mine[0];
    out.push({ node: pathOfNode(n), op: n.op, types: kernel && typesOf(kernel), kernel: kernel?.type });
  }
  return out;
}

/** The parser calls a node without a name after its output. */
function namesOf(n: Node): readonly string[] {
  return n.name !== "" ? [n.name] : [`node_of_${n.outputs[0]?.name ?? ""}`];
}

/**
 * Data, weight and result. A dequantizing product has codes and scales among its constants: the codes are its weight. A weight that another
 * kernel unpacks comes as an input, and the constants are scales.
 */
function typesOf(k: Kernel): string {
  const weight =
    k.constants.find((t) => NARROW.includes(t)) ?? (k.inputs.length > 1 && k.constants[0] !== k.inputs[0] ? undefined : k.constants[0]);
  const operands = weight === undefined ? k.inputs.slice(0, 2) : [k.inputs[0] ?? "", weight];
  return `${operands.join(" × ")} → ${k.outputs[0] ?? ""}`;
}
