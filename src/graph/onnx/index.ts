import { QcError } from "../../diagnostics.ts";
import { LIMITS } from "../../io/limits.ts";
import { folderOf } from "../../io/path.ts";
import { sniff } from "../../io/sniff.ts";
import { type ByteSource, externalSource, readFile } from "../../io/source.ts";
import type { Model } from "../ir.ts";
import type { TensorData } from "../tensor.ts";
import type { OpenExternal } from "./external.ts";
import { parseModel } from "./read.ts";
import { readTensor } from "./tensor.ts";
import { Place, Wire } from "./wire.ts";
import { encodeModel, encodeTensor } from "./write.ts";

export { type SaveOptions, saveModel } from "./save.ts";

export interface ReadOptions {
  /** The folder in which external data is looked up. Without it, such tensors cannot be read. */
  readonly folder?: string;
  /** For messages. */
  readonly label?: string;
}

/**
 * ONNX bytes to a model. Tensors are views of the bytes, which must not change while the model lives. Never trusts the bytes: each
 * error is a QcError that names its place, memory is bounded by the size of the input.
 */
export function readModel(input: Uint8Array | ByteSource, options: ReadOptions = {}): Model {
  const isBytes = input instanceof Uint8Array;
  const label = options.label ?? (isBytes ? "model" : input.label);
  const size = isBytes ? input.byteLength : input.size;
  if (size > LIMITS.modelBytes)
    throw new QcError({ code: "io/limit", file: label, limit: "modelBytes", most: LIMITS.modelBytes, got: size, at: "the file" });
  const bytes = plainArray(isBytes ? input : input.read(0, input.size));
  const other = sniff(bytes.subarray(0, 512));
  if (other !== undefined) throw new QcError({ code: "io/wrong-kind", file: label, want: "ONNX model", ...other });
  return parseModel(bytes, label, options.folder === undefined ? undefined : opener(options.folder));
}

/** Reads the file once into one buffer; external data stays in its files until it is asked for. */
export function loadModel(path: string): Model {
  return readModel(readFile(path, LIMITS.modelBytes), { folder: folderOf(path), label: path });
}

/** The whole model as ONNX bytes, constants included. Equal models give equal bytes. */
export function writeModel(model: Model): Uint8Array {
  const s = encodeModel(model);
  if (s.byteLength > LIMITS.modelBytes)
    throw new QcError({ code: "io/too-large", path: "model", sizeBytes: s.byteLength, most: LIMITS.modelBytes });
  return s.toBytes();
}

/** The same bytes in parts, one tensor in memory at a time. */
export function writeChunks(model: Model): { readonly byteLength: number; readonly chunks: Iterable<Uint8Array> } {
  const s = encodeModel(model);
  return { byteLength: s.byteLength, chunks: { [Symbol.iterator]: () => s.chunks() } };
}

/** A Node Buffer is a Uint8Array whose `slice` does not copy: views of it would surprise. */
function plainArray(b: Uint8Array): Uint8Array {
  return b.constructor === Uint8Array ? b : new Uint8Array(b.buffer, b.byteOffset, b.byteLength);
}

function opener(folder: string): OpenExternal {
  const sources = new Map<string, ByteSource>();
  return (location) => {
    let s = sources.get(location);
    if (s === undefined) sources.set(location, (s = externalSource(folder, location)));
    return s;
  };
}

/** Bytes of the model as one file, without making them. */
export function modelSize(model: Model): number {
  return encodeModel(model).byteLength;
}

/** One TensorProto alone in a file (`input_0.pb` of ONNX test data). */
export function readTensorProto(bytes: Uint8Array, label = "tensor"): { readonly name: string; readonly data: TensorData } {
  const place = new Place(label, bytes.length);
  bytes = plainArray(bytes);
  return readTensor(new Wire(bytes, 0, bytes.length, place), { place, open: undefined, external: [] });
}

/** The bytes of a TensorProto. */
export function writeTensorProto(data: TensorData, name = ""): Uint8Array {
  return encodeTensor(data, name).toBytes();
}
