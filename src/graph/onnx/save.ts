import { QcError } from "../../diagnostics.ts";
import { OutputSet, removeStale } from "../../io/atomic.ts";
import { hasher } from "../../io/hash.ts";
import { LIMITS } from "../../io/limits.ts";
import { fileNameOf, folderOf, joinPath, namesIn, removeFile } from "../../io/path.ts";
import type { Graph, Model, Value } from "../ir.ts";
import type { ExternalRef, TensorData } from "../tensor.ts";
import { encodeModel } from "./write.ts";

export interface SaveOptions {
  /** "auto" (default): when the model would be larger than LIMITS.inlineBytes. */
  readonly externalData?: "auto" | "never" | "always";
  /** What "auto" compares with; default LIMITS.inlineBytes. */
  readonly inlineBytes?: number;
  /** A fixed name of the data file, for readers that expect one. Then the pair is replaced data first. */
  readonly dataName?: string;
}

/** Smaller constants stay in the model: shapes and axes are needed to read a graph, and onnxruntime wants them there. */
const LEAST_EXTERNAL = 1024;
/** Large tensors start on a page, so that they can be mapped; small ones on a cache line. */
const alignmentOf = (length: number) => (length >= 1 << 20 ? 4096 : 64);

/**
 * Writes a model so that the path holds the old model or the new one, never a part or a mixture. External data goes to
 * `<name>.<hash of its bytes>.data` beside the model: a new content has a new name, so the old pair stays valid until the model's
 * own rename; then data files of this scheme that the model does not name are removed.
 * One tensor is in memory at a time: `TensorData.bytes()` may compute or read its bytes when called, and is called once.
 */
export function saveModel(model: Model, path: string, options: SaveOptions = {}): void {
  const mode = options.externalData ?? "auto";
  const folder = folderOf(path);
  const name = fileNameOf(path);
  const stem = name.replace(/\.onnx$/, "");
  const inline = encodeModel(model);
  const outside = mode === "always" || (mode === "auto" && inline.byteLength > (options.inlineBytes ?? LIMITS.inlineBytes));
  if (!outside && inline.byteLength > LIMITS.protobufBytes)
    throw new QcError({ code: "io/too-large", path, sizeBytes: inline.byteLength, most: LIMITS.protobufBytes });

  const dataPath = joinPath(folder, `${stem}.data`);
  removeStale(dataPath);
  const out = new OutputSet();
  let dataName: string | undefined;
  try {
    if (outside) {
      const places = new Map<TensorData, { offset: number; length: number }>();
      let offset = 0;
      for (const v of constantsOf(model)) {
        const data = v.data!;
        if (places.has(data) || data.byteLength < LEAST_EXTERNAL || data.dtype === "string" || v.sparse !== undefined) continue;
        const align = alignmentOf(data.byteLength);
        offset = Math.ceil(offset / align) * align;
        places.set(data, { offset, length: data.byteLength });
        offset += data.byteLength;
      }
      if (places.size > 0) {
        const hash = hasher();
        const file = out.write(dataPath, dataChunks(places, hash));
        dataName = options.dataName ?? `${stem}.${hash.digest().slice(0, 16)}.data`;
        file.rename(joinPath(folder, dataName));
        const location = dataName;
        const placeOf = (v: Value): ExternalRef | undefined => {
          const p = places.get(v.data!);
          return p && v.sparse === undefined ? { location, ...p } : undefined;
        };
        out.write(path, encodeModel(model, { placeOf }).chunks());
      } else out.write(path, inline.chunks());
    } else out.write(path, inline.chunks());
    out.commit();
  } finally {
    out.discard();
  }
  for (const other of namesIn(folder))
    if (other.startsWith(`${stem}.`) && /^[0-9a-f]{16}\.data$/.test(other.slice(stem.length + 1)) && other !== dataName)
      removeFile(joinPath(folder, other));
}

function* dataChunks(
  places: ReadonlyMap<TensorData, { readonly offset: number; readonly length: number }>,
  hash: { update(b: Uint8Array): void },
): Generator<Uint8Array> {
  const zeros = new Uint8Array(4096);
  let at = 0;
  for (const [data, { offset, length }] of places) {
    if (offset > at) {
      const gap = zeros.subarray(0, offset - at);
      hash.update(gap);
      yield gap;
    }
    const bytes = data.bytes();
    if (bytes.byteLength !== length) throw new Error(`internal: a tensor has ${bytes.byteLength} bytes, ${length} were announced`);
    hash.update(bytes);
    yield bytes;
    at = offset + length;
  }
}

/** Constants of the graph, of its subgraphs and of functions' subgraphs, in the order in which they are written. */
export function* constantsOf(model: Model): Generator<Value> {
  yield* inGraph(model.graph);
  for (const f of model.functions) yield* inGraph(f.body);
}

function* inGraph(g: Graph): Generator<Value> {
  for (const n of g.nodes) for (const s of n.subgraphs) yield* inGraph(s);
  yield* g.initializers;
}
