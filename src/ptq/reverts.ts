import type { Model, Value } from "../graph/ir.ts";
import { floats } from "../graph/tensor.ts";
import type { ValueType } from "../graph/types.ts";
import type { PlanBundle, Revert } from "../plan/types.ts";
import { INT_DTYPES, isIntDType } from "../quant/dtype.ts";
import type { Feeds, Runtime, Tensor } from "../runtime/types.ts";
import { judgedValues } from "./judge.ts";
import type { Layer } from "./layers.ts";
import { type Stream, Streams } from "./streams.ts";

export interface RevertOptions {
  readonly model: Model;
  readonly types?: ReadonlyMap<string, ValueType>;
  readonly bundle: PlanBundle;
  readonly layers: readonly Layer[];
  /** What more bits would store, by weight value: the continuous target and its bias. Without an entry: the float weight. */
  readonly targets?: ReadonlyMap<string, { readonly weight: Float32Array; readonly bias: Float32Array | undefined }>;
  readonly runtime: Runtime;
  readonly indices: readonly number[];
  readonly load: (index: number) => Promise<Feeds>;
  readonly signal?: AbortSignal;
}

/** Runs of the quantized network that the ranking may take. */
const MOST_RUNS = 800;
const MOST_SAMPLES = 16;

/**
 * What the outputs would gain if one layer had more: its input in 16 bits ("a16": as good as float), its weight in 8 bits where it has
 * fewer ("w8"), or all of it in float. Each is measured alone, by the fake-quantized network on a few samples; best gain per byte first.
 * Gains of several reverts add up only roughly.
 */
export async function rankReverts(o: RevertOptions): Promise<Revert[]> {
  const variants: { readonly layer: Layer; readonly to: Revert["to"]; readonly costBytes: number }[] = [];
  for (const layer of o.layers) {
    const { dtype } = layer.site.scheme;
    const bits = isIntDType(dtype) ? INT_DTYPES[dtype].bits : 32;
    const count = layer.groups * layer.rows * layer.k;
    if (hasActivation(o.bundle, layer)) variants.push({ layer, to: "a16", costBytes: 0 });
    if (bits < 8) variants.push({ layer, to: "w8", costBytes: Math.ceil((count * (8 - bits)) / 8) });
    variants.push({ layer, to: "float", costBytes: Math.ceil((count * (32 - bits)) / 8) });
  }
  const n = Math.max(1, Math.min(o.indices.length, MOST_SAMPLES, Math.floor(MOST_RUNS / Math.max(1, variants.length))));
  const samples: Feeds[] = [];
  for (const i of o.indices.slice(0, n)) samples.push(await o.load(i));
  const float = await outputsOf(o, new Streams(o.model, o.bundle, o.types), "float", samples);
  const before = noise(float, await outputsOf(o, new Streams(o.model, o.bundle, o.types), "quant", samples));
  const out: Revert[] = [];
  for (const { layer, to, costBytes } of variants) {
    o.signal?.throwIfAborted();
    const streams = new Streams(o.model, o.bundle, o.types);
    if (to !== "w8") streams.leaveFloat(layer.node, layer.inputIndex);
    if (to !== "a16") {
      const better = o.targets?.get(layer.site.value);
      streams.setWeight(layer.weight.value, floats(better?.weight ?? layer.weight.constant.float32(), layer.weight.constant.shape));
      if (better?.bias && layer.bias) streams.setConstant(layer.bias.value, floats(better.bias, layer.bias.value.data!.shape));
    }
    const after = noise(float, await outputsOf(o, streams, "quant", samples));
    out.push({ node: layer.key, to, gainDb: 10 * Math.log10(before / Math.max(after, before * 1e-9)), costBytes });
  }
  const worth = (r: Revert) => (r.gainDb > 0 ? r.gainDb / (r.costBytes + 1) : r.gainDb);
  return out.sort((a, b) => worth(b) - worth(a) || (a.node < b.node ? -1 : a.node > b.node ? 1 : 0) || (a.to < b.to ? -1 : 1));
}

function hasActivation(bundle: PlanBundle, layer: Layer): boolean {
  return bundle.plan.sites.some(
    (s) =>
      s.kind === "static" &&
      s.value === layer.input.name &&
      (s.consumers === "all" || s.consumers.some((c) => c.node === layer.key && c.input === layer.inputIndex)),
  );
}

type Outputs = readonly (readonly Tensor[])[];

async function outputsOf(o: RevertOptions, streams: Streams, stream: Stream, samples: readonly Feeds[]): Promise<Outputs> {
  const values: readonly Value[] = judgedValues(o.model);
  const given = new Map(
    o.model.graph.inputs.flatMap((v) =>
      v.type?.kind === "tensor" && v.type.elem && !v.data ? [[streams.key("float", v), v.type.elem] as const] : [],
    ),
  );
  const segment = streams.segment(
    values.map((value) => ({ stream, value })),
    given,
  );
  const session = await o.runtime.open(segment.bytes, { label: "revert" });
  try {
    const out: Tensor[][] = [];
    for (const feeds of samples) {
      const got = await session.run(Object.fromEntries(segment.inputs.map((key) => [key, feeds[key.slice(key.indexOf("/") + 1)]!])));
      out.push(segment.outputs.map((x) => got[x.name]!));
    }
    return out;
  } finally {
    await session.release();
  }
}

/** Noise over signal: mean over the outputs. */
function noise(float: Outputs, quant: Outputs): number {
  const count = float[0]?.length ?? 0;
  let sum = 0;
  for (let w = 0; w < count; w++) {
    let s = 0;
    let e = 0;
    for (const [n, sample] of float.entries()) {
      const a = sample[w]!.data;
      const b = quant[n]![w]!.data;
      if (!(a instanceof Float32Array) || !(b instanceof Float32Array)) continue;
      for (let i = 0; i < a.length; i++) {
        s += a[i]! * a[i]!;
        e += (a[i]! - b[i]!) ** 2;
      }
    }
    if (s > 0) sum += e / s;
  }
  return sum / Math.max(1, count);
}
