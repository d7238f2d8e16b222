import { QcError } from "./diagnostics.ts";
import type { Graph, Model } from "./graph/ir.ts";
import { modelHashes } from "./graph/onnx/hash.ts";
import { readModel } from "./graph/onnx/index.ts";
import { traitOf } from "./graph/ops/index.ts";
import { allGraphs, allNodes, pathOfNode } from "./graph/walk.ts";
import { LIMITS } from "./io/limits.ts";
import { fileNameOf, folderOf } from "./io/path.ts";
import { readFile } from "./io/source.ts";
import type { IoInfo } from "./runtime/types.ts";
import type { Runnable } from "./verify/index.ts";

/** The model as it was given. Nothing changes it. */
export interface Source {
  readonly model: Model;
  readonly hashes: { readonly structure: string; readonly weights: string };
  readonly path: string | undefined;
  /** For messages and reports: the file's name without folders. */
  readonly label: string;
  /** As the engine opens it. */
  readonly runnable: Runnable;
  /** The file and its external data. */
  readonly sizeBytes: number;
}

/** Reads a model from a path or from bytes (which must not change afterwards). */
export function readSource(source: string | Uint8Array): Source {
  const path = typeof source === "string" ? source : undefined;
  const bytes = typeof source === "string" ? readFile(source, LIMITS.modelBytes) : source;
  const label = path === undefined ? "model" : fileNameOf(path);
  const model = readModel(bytes, path === undefined ? { label } : { label: path, folder: folderOf(path) });
  return {
    model,
    hashes: modelHashes(model),
    path,
    label,
    runnable: { model: path ?? bytes, label },
    sizeBytes: bytes.byteLength + externalBytes(model.graph),
  };
}

function externalBytes(graph: Graph): number {
  // One tensor may stand behind several constants.
  const ranges = new Map<string, number>();
  for (const g of allGraphs(graph))
    for (const { data } of g.initializers)
      if (data?.external) ranges.set(`${data.external.location}:${data.external.offset}`, data.external.length);
  let sum = 0;
  for (const n of ranges.values()) sum += n;
  return sum;
}

/** A float model is what qc takes: codes in, codes out would be quantized twice. */
export function refuseQuantized(model: Model): void {
  const found = [...allNodes(model)].filter((n) => traitOf(n) === "quantized");
  if (found.length > 0)
    throw new QcError(
      { code: "cli/already-quantized", nodes: found.length, example: `${found[0]!.op} ${pathOfNode(found[0]!)}` },
      { exitCode: 1 },
    );
}

/** Models that are compared must take the same inputs: the first one's. */
export function sameInputs(sources: readonly Source[]): void {
  const namesOf = (s: Source) => inputsOf(s.model).map((i) => i.name);
  const [first, ...others] = sources;
  const want = namesOf(first!);
  const sorted = (n: readonly string[]) => [...n].sort().join("\0");
  const other = others.find((s) => sorted(namesOf(s)) !== sorted(want));
  if (other !== undefined)
    throw new QcError({ code: "gate/inputs-differ", label: other.label, have: namesOf(other), reference: first!.label, want });
}

/** What a caller must feed: graph inputs without a default. */
export function inputsOf(model: Model): readonly IoInfo[] {
  return model.graph.inputs
    .filter((v) => v.data === undefined)
    .map((v) => {
      if (v.type?.kind !== "tensor" || v.type.elem === undefined) throw new QcError({ code: "cli/input-type", input: v.name });
      return { name: v.name, dtype: v.type.elem, dims: (v.type.shape ?? []).map((d) => d ?? "?") };
    });
}
