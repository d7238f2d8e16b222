import { QcError } from "../../diagnostics.ts";
import { readFile } from "../../io/source.ts";
import type { AudioConfig } from "../config.ts";
import type { Fields, Item } from "../item.ts";
import { resample } from "../resample.ts";
import { digestFiles, type FileEntry } from "./files.ts";
import type { Source } from "./types.ts";

/**
 * WAV files as float32 in [−1, 1), the mean of their channels. Fields: `audio`, `class` (the folder), `name`. With `frame: n` a file is a
 * sequence of frames of n new samples, each with `context` samples of the frame before in front; what is left at the end is dropped.
 */
export async function audioSource(label: string, files: readonly FileEntry[], c: AudioConfig): Promise<Source> {
  const load = await decoder(c);
  let held: { readonly file: number; readonly wave: Float32Array } | undefined;
  const wave = (file: number): Float32Array => {
    if (held?.file !== file) held = { file, wave: load(files[file]!) };
    return held.wave;
  };
  const counts = c.frame === undefined ? files.map(() => 1) : files.map((_, i) => Math.floor(wave(i).length / c.frame!));
  const fileOf: number[] = [];
  const frameOf: number[] = [];
  counts.forEach((n, file) => {
    for (let k = 0; k < n; k++) {
      fileOf.push(file);
      frameOf.push(k);
    }
  });
  const folderOf = (f: FileEntry) => f.name.split("/").at(-2);
  const inFolders = files.length > 0 && files.every((f) => folderOf(f) !== undefined);
  const nameOf = (f: FileEntry) => f.name.replace(/\.[^./]+$/, "");
  const length = (c.frame ?? c.length ?? 0) + (c.context ?? 0);
  return {
    label,
    size: fileOf.length,
    fields: new Map([
      ["audio", length > 0 ? `float32[${length}]` : "float32[time]"],
      ...(inFolders ? [["class", "folder name"] as const] : []),
      ["name", "path without extension"],
    ]),
    main: "audio",
    id: (i) => (c.frame === undefined ? files[fileOf[i]!]!.name : `${files[fileOf[i]!]!.name}#${frameOf[i]}`),
    record(i): Fields {
      const f = files[fileOf[i]!]!;
      const all = wave(fileOf[i]!);
      const data = c.frame === undefined ? whole(all, c.length) : frame(all, frameOf[i]! * c.frame, c.frame, c.context ?? 0);
      const out: Record<string, Item> = {
        audio: { kind: "tensor", dtype: "float32", dims: [data.length], data },
        name: { kind: "text", text: nameOf(f) },
      };
      if (inFolders) out["class"] = { kind: "text", text: folderOf(f)! };
      return out;
    },
    file: (i) => files[fileOf[i]!]!.path,
    scalars(field) {
      if (field === "class" && inFolders) return fileOf.map((f) => folderOf(files[f]!)!);
      return field === "name" ? fileOf.map((f) => nameOf(files[f]!)) : undefined;
    },
    sequences: c.frame === undefined ? undefined : fileOf,
    digest: (h) => digestFiles(h, files),
  };
}

function whole(x: Float32Array, length: number | undefined): Float32Array {
  if (length === undefined || x.length === length) return x;
  const out = new Float32Array(length);
  out.set(x.subarray(0, length));
  return out;
}

/** Samples [from − context, from + size), zeros before the beginning. */
function frame(x: Float32Array, from: number, size: number, context: number): Float32Array {
  const out = new Float32Array(context + size);
  const start = from - context;
  out.set(x.subarray(Math.max(0, start), from + size), Math.max(0, -start));
  return out;
}

async function decoder(c: AudioConfig): Promise<(f: FileEntry) => Float32Array> {
  const { WaveFile } = (await import("wavefile")).default;
  return (f) => {
    try {
      const w = new WaveFile(readFile(f.path));
      if (w.bitDepth === "4") w.fromIMAADPCM();
      if (w.bitDepth === "8a") w.fromALaw();
      if (w.bitDepth === "8m") w.fromMuLaw();
      const { sampleRate } = w.fmt as { readonly sampleRate: number };
      const samples = w.getSamples(false) as unknown as Float64Array | Float64Array[];
      const wave = mixed(Array.isArray(samples) ? samples : [samples], w.bitDepth);
      return c.rate === undefined ? wave : resample(wave, sampleRate, c.rate);
    } catch (e) {
      if (e instanceof QcError) throw e;
      const detail = e instanceof Error ? e.message : String(e);
      throw new QcError({ code: "data/sample-unreadable", set: f.path, sample: f.name, detail }, { cause: e });
    }
  };
}

/** The mean of the channels in [−1, 1): integers are divided by 2^(bits − 1); 8 bit is stored unsigned. */
function mixed(channels: readonly Float64Array[], bitDepth: string): Float32Array {
  const bits = Number.parseInt(bitDepth, 10);
  const float = bitDepth === "32f" || bitDepth === "64";
  const zero = bits === 8 ? 128 : 0;
  const scale = (float ? 1 : 2 ** (bits - 1)) * channels.length;
  const out = new Float32Array(channels[0]?.length ?? 0);
  for (let i = 0; i < out.length; i++) {
    let s = 0;
    for (const ch of channels) s += ch[i]! - zero;
    out[i] = s / scale;
  }
  return out;
}
