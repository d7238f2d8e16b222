import { expect } from "vitest";
import type { AttrLike } from "../../src/graph/attr.ts";
import { checkModel } from "../../src/graph/check.ts";
import { type Graph, type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { writeModel } from "../../src/graph/onnx/index.ts";
import { printModel } from "../../src/graph/print.ts";
import { floats, int64s } from "../../src/graph/tensor.ts";
import { type Dim, staticShape, tensorType } from "../../src/graph/types.ts";
import type { Prepared, PrepareOptions } from "../../src/prepare/index.ts";
import { prepareModel } from "../../src/prepare/index.ts";
import { DTYPES, elementCount } from "../../src/quant/dtype.ts";
import type { Feeds, Runtime, Tensor, TensorArray } from "../../src/runtime/types.ts";

/** A seeded stream of numbers in (−1, 1), so that every run of a test sees the same. */
export function numbers(seed: number): () => number {
  let s = seed >>> 0 || 1;
  return () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 31 - 1;
  };
}

/** A small model in code. */
export class Builder {
  readonly model: Model;
  readonly #next = numbers(7);
  constructor(opset = 17, irVersion = 8) {
    this.model = newModel(opset, irVersion);
  }
  get g(): Graph {
    return this.model.graph;
  }
  input(name: string, shape: readonly Dim[]): Value {
    return this.g.addInput(name, tensorType("float32", shape));
  }
  /** A weight with seeded content; `lift` moves it away from 0. */
  weight(name: string, shape: readonly number[], lift = 0): Value {
    return this.g.constant(
      floats(
        Array.from({ length: elementCount(shape) }, () => Math.fround(this.#next() + lift)),
        shape,
      ),
      name,
    );
  }
  floats(name: string, list: readonly number[], shape: readonly number[] = [list.length]): Value {
    return this.g.constant(floats(list, shape), name);
  }
  ints(name: string, list: readonly number[]): Value {
    return this.g.constant(int64s(list), name);
  }
  node(op: string, inputs: readonly (Value | undefined)[], attrs: Record<string, AttrLike> = {}, output?: string, graph = this.g): Value {
    return graph.append({ op, inputs, attrs, outputs: [output ?? graph.freshName(op.toLowerCase())] }).outputs[0]!;
  }
  /** Scale, shift, mean, variance of a BatchNormalization over `x`. */
  batchNorm(x: Value, channels: number, output?: string): Value {
    const params = [
      this.weight("gamma", [channels], 1.5),
      this.weight("beta", [channels]),
      this.weight("mean", [channels]),
      this.weight("var", [channels], 1.5),
    ];
    return this.node("BatchNormalization", [x, ...params], {}, output);
  }
  output(v: Value): Model {
    this.g.addOutput(v);
    return this.model;
  }
}

/** Seeded feeds: symbolic dimensions become 2; integers are 0 … 3. */
export function feedsOf(model: Model, seed = 1): Feeds {
  const next = numbers(seed);
  const out: Record<string, Tensor> = {};
  for (const v of model.graph.inputs) {
    if (v.type?.kind !== "tensor" || !v.type.elem || v.data) continue;
    const dims = (staticShape(v.type) ?? v.type.shape ?? []).map((d) => (typeof d === "number" && d >= 0 ? d : 2));
    const count = elementCount(dims);
    const kind = DTYPES[v.type.elem].kind;
    const list = Array.from({ length: count }, () => (kind === "float" ? next() : Math.floor((next() + 1) * 2)));
    out[v.name] = { dtype: v.type.elem, dims, data: arrayOf(v.type.elem, list) };
  }
  return out;
}

function arrayOf(dtype: string, list: number[]): TensorArray {
  switch (dtype) {
    case "float32":
      return Float32Array.from(list);
    case "int64":
      return BigInt64Array.from(list, BigInt);
    case "int32":
      return Int32Array.from(list);
    case "bool":
    case "uint8":
      return Uint8Array.from(list);
    default:
      throw new Error(`no feeds of ${dtype}`);
  }
}

export async function runModel(runtime: Runtime, model: Model, feeds: Feeds): Promise<Record<string, Tensor>> {
  const session = await runtime.open(writeModel(model));
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

/** Largest |a − b| over all outputs, as a share of the largest |a| of that output. */
export function difference(a: Record<string, Tensor>, b: Record<string, Tensor>): number {
  expect(Object.keys(b)).toEqual(Object.keys(a));
  let worst = 0;
  for (const [name, t] of Object.entries(a)) {
    const u = b[name]!;
    expect([name, u.dtype, u.dims]).toEqual([name, t.dtype, t.dims]);
    let diff = 0;
    let most = 0;
    for (let i = 0; i < t.data.length; i++) {
      const [x, y] = [Number(t.data[i]), Number(u.data[i])];
      if (Number.isNaN(x) && Number.isNaN(y)) continue;
      if (x === y) continue;
      diff = Math.max(diff, Math.abs(x - y));
      most = Math.max(most, Math.abs(x));
    }
    worst = Math.max(worst, diff === 0 ? 0 : diff / (most || 1));
  }
  return worst;
}

/** Prepares and checks every law: the graph is valid, outputs are equal, a second pass changes nothing, the interface stays. */
export async function lawful(runtime: Runtime, model: Model, tolerance: number, options: PrepareOptions = {}): Promise<Prepared> {
  const before = printModel(model);
  const p = await prepareModel(model, runtime, options);
  expect(printModel(model), "the argument stays as it was").toBe(before);
  expect(checkModel(p.model)).toEqual([]);
  const io = (m: Model) => [m.graph.inputs.filter((v) => !v.data), m.graph.outputs].map((l) => l.map((v) => v.name));
  expect(io(p.model)).toEqual(io(model));
  const again = await prepareModel(p.model, runtime, options);
  expect(printModel(again.model)).toBe(printModel(p.model));
  for (const seed of [1, 2]) {
    const feeds = feedsOf(model, seed);
    const d = difference(await runModel(runtime, model, feeds), await runModel(runtime, p.model, feeds));
    expect(d).toBeLessThanOrEqual(tolerance);
  }
  return p;
}

export const refusals = (p: Prepared): string[] => p.refused.map((r) => `${r.rule} at ${r.node}: ${r.why}`);
