import { QcError } from "../diagnostics.ts";
import { openNpz, writeNpz } from "../io/npz.ts";
import type { ByteSource } from "../io/source.ts";
import type { QatCheckpoint } from "./train.ts";

/** What a checkpoint belongs to: it is refused elsewhere. */
export interface CheckpointKey {
  readonly structure: string;
  readonly weights: string;
  /** Hash of the plan that training began with, and of the options. */
  readonly plan: string;
  readonly options: string;
}
interface Manifest {
  readonly schema: "qc.qat.checkpoint/1";
  readonly key: CheckpointKey;
  readonly step: number;
  readonly waited: number;
  readonly best: { readonly step: number; readonly error: number };
}

/** A checkpoint as a zip of `.npy` and a manifest. */
export function writeCheckpoint(c: QatCheckpoint, key: CheckpointKey): Uint8Array[] {
  const manifest: Manifest = {
    schema: "qc.qat.checkpoint/1",
    key,
    step: c.state.step,
    waited: c.waited,
    best: { step: c.best.step, error: c.best.error },
  };
  const arrays: [string, { dtype: "float32"; shape: number[]; data: Float32Array }][] = [
    ["best", { dtype: "float32", shape: [c.best.params.length], data: c.best.params }],
    ...[...c.state.tensors].map(
      ([name, data]) =>
        [`state/${name}`, { dtype: "float32", shape: [data.length], data }] as [
          string,
          { dtype: "float32"; shape: number[]; data: Float32Array },
        ],
    ),
  ];
  return writeNpz(arrays, { files: [{ name: "manifest.json", bytes: new TextEncoder().encode(JSON.stringify(manifest)) }] });
}

/** Reads a checkpoint of the same model, plan and options; anything else is refused by name. */
export function readCheckpoint(source: ByteSource, key: CheckpointKey): QatCheckpoint {
  const zip = openNpz(source);
  const entry = zip.files.get("manifest.json");
  if (!entry) throw new QcError({ code: "qat/bad-checkpoint", file: source.label, why: "it has no manifest" });
  const m = JSON.parse(new TextDecoder().decode(entry.read(0, entry.size))) as Manifest;
  if (m.schema !== "qc.qat.checkpoint/1")
    throw new QcError({ code: "qat/bad-checkpoint", file: source.label, why: "it is of another version" });
  for (const part of ["structure", "weights", "plan", "options"] as const)
    if (m.key[part] !== key[part]) throw new QcError({ code: "qat/bad-checkpoint", file: source.label, why: `its ${part} differs` });
  const array = (name: string): Float32Array => {
    const a = zip.array(name);
    if (!a) throw new QcError({ code: "qat/bad-checkpoint", file: source.label, why: `"${name}" is missing` });
    return a.all().data as Float32Array;
  };
  const tensors = new Map(zip.names.filter((n) => n.startsWith("state/")).map((n) => [n.slice(6), array(n)]));
  return { state: { step: m.step, tensors }, best: { ...m.best, params: array("best") }, waited: m.waited };
}
