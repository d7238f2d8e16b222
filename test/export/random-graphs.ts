import { type Model, newModel, type Value } from "../../src/graph/ir.ts";
import { floats, type TensorData, tensorFromBytes } from "../../src/graph/tensor.ts";
import { tensorType } from "../../src/graph/types.ts";
import { byteCount, DTYPES, type DType, elementCount } from "../../src/quant/dtype.ts";
import { numbers } from "../prepare/build.ts";

/** Seeded choices. */
class Dice {
  readonly #next: () => number;
  constructor(seed: number) {
    this.#next = numbers(seed * 7919 + 13);
    for (let i = 0; i < 8; i++) this.#next();
  }
  unit(): number {
    return (this.#next() + 1) / 2;
  }
  pick<T>(list: readonly T[]): T {
    return list[Math.min(list.length - 1, Math.floor(this.unit() * list.length))]!;
  }
  chance(p: number): boolean {
    return this.unit() < p;
  }
}

const half = (x: number): number => {
  // float32 bits to float16, round to nearest even; the values here are normal in both.
  const f = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  const e = ((f >>> 23) & 255) - 112;
  if (e <= 0) return (f >>> 16) & 0x8000;
  const m = (f >>> 13) & 1023;
  const rest = f & 0x1fff;
  return (((f >>> 16) & 0x8000) | (e << 10) | m) + (rest > 0x1000 || (rest === 0x1000 && m & 1) ? 1 : 0);
};

/** One quantized operator (or a small chain) with choices that are usual, odd or wrong: types, axes, zero points, blocks, scales. */
export function randomQuantized(seed: number): Model {
  const d = new Dice(seed);
  const opset = d.pick([13, 17, 19, 21, 21, 21, 23]);
  const model = newModel(opset, opset >= 23 ? 11 : opset >= 21 ? 10 : opset >= 19 ? 9 : 8);
  const g = model.graph;
  const real: DType = opset >= 19 && d.chance(0.4) ? "float16" : "float32";
  const fractions = (list: readonly number[], shape: readonly number[], dtype: DType = real): TensorData =>
    dtype === "float16" ? tensorFromBytes("float16", shape, new Uint8Array(Uint16Array.from(list, half).buffer)) : floats(list, shape);
  const codes = (dtype: DType, shape: readonly number[], value?: number): TensorData => {
    const bytes = new Uint8Array(byteCount(dtype, elementCount(shape)));
    const bits = DTYPES[dtype].bits;
    for (let i = 0; i < bytes.length; i++)
      bytes[i] =
        value !== undefined
          ? bits === 4
            ? (value & 15) * 17
            : value & 255
          : dtype.startsWith("float8")
            ? 0x20 + (i % 24)
            : (i * 37 + 11) & (bits === 4 ? 0x77 : 0x7f);
    if (value !== undefined && bits > 8) for (let i = 0; i < bytes.length; i++) bytes[i] = i % (bits / 8) === 0 ? value & 255 : 0;
    return tensorFromBytes(dtype, shape, bytes);
  };
  const types: DType[] =
    opset >= 21
      ? ["int8", "int8", "int8", "uint8", "float8e4m3fn", "int4", "uint4", "int16", "float8e5m2"]
      : opset >= 19
        ? ["int8", "int8", "uint8", "float8e4m3fn", "float8e5m2"]
        : ["int8", "int8", "uint8"];
  const zeroPoint = (dtype: DType, shape: readonly number[], odd: boolean): Value =>
    g.constant(codes(dtype, shape, odd && !dtype.startsWith("float") ? (dtype === "uint8" ? 128 : 3) : 0), "zp");
  const scaleOf = (shape: readonly number[]): Value => {
    const n = elementCount(shape);
    const list = Array.from({ length: n }, (_, i) => 0.01 + 0.001 * (i % 7));
    if (d.chance(0.03)) list[0] = 0;
    return g.constant(fractions(list, shape), "scale");
  };
  const activation = (v: Value, shape: readonly number[], dtype: DType): Value => {
    const axis = 1;
    const perChannel = d.chance(0.08);
    const s = scaleOf(perChannel ? [shape[axis]!] : []);
    const zp =
      d.chance(0.9) || dtype !== "int8"
        ? zeroPoint(dtype, perChannel ? [shape[axis]!] : [], d.chance(0.06) || (dtype === "uint8" && d.chance(0.7)))
        : undefined;
    const attrs: Record<string, number> = perChannel ? { axis } : {};
    if (!zp && opset >= 21) attrs.output_dtype = DTYPES.int8.code;
    const q = g.append({ op: "QuantizeLinear", inputs: zp ? [v, s, zp] : [v, s], attrs });
    return g.append({ op: "DequantizeLinear", inputs: zp ? [q.outputs[0], s, zp] : [q.outputs[0], s], attrs: perChannel ? { axis } : {} })
      .outputs[0]!;
  };
  const weight = (shape: readonly number[], right: number | undefined, k: number): Value => {
    const dtype = d.pick(types);
    const w = g.constant(codes(dtype, shape), "w");
    const grain = d.pick(["tensor", "channel", "channel", "wrong", ...(opset >= 21 ? ["block", "block"] : [])]);
    const bits = DTYPES[dtype].bits;
    const odd = d.chance(0.06);
    const withZero = d.chance(0.9) || dtype !== "int8";
    const dq = (s: Value, zshape: readonly number[], attrs: Record<string, number>): Value => {
      const zp = withZero ? zeroPoint(dtype, zshape, odd) : undefined;
      return g.append({ op: "DequantizeLinear", inputs: zp ? [w, s, zp] : [w, s], attrs }).outputs[0]!;
    };
    if (grain === "block" && bits === 4) {
      const axis = d.chance(0.85) ? k : Math.max(1 - k, 0);
      const size = d.pick([16, 32, 64]);
      const dims = shape.map((x, i) => (i === axis ? Math.ceil(x / size) : x));
      return dq(scaleOf(dims), dims, { axis, block_size: size });
    }
    if (grain === "tensor" || right === undefined) return dq(scaleOf([]), [], {});
    const axis = grain === "wrong" ? (right + 1) % shape.length : right;
    const length = d.chance(0.03) ? shape[axis]! + 1 : shape[axis]!;
    return dq(scaleOf([length]), [length], { axis });
  };
  const op = d.pick(["MatMul", "MatMul", "Gemm", "Conv", "Conv", "ConvTranspose"]);
  const [n, kk, m] = [d.pick([16, 32, 64]), d.pick([64, 128]), 8];
  const actType = d.pick(
    opset >= 19 ? ["int8", "int8", "int8", "int8", "uint8", "float8e4m3fn"] : ["int8", "int8", "int8", "uint8"],
  ) as DType;
  const quantizeX = d.chance(0.75);
  let y: Value;
  if (op === "Conv" || op === "ConvTranspose") {
    const c = d.pick([16, 32]);
    const x = g.addInput("x", tensorType(real, [1, c, 8, 8]));
    const xq = quantizeX ? activation(x, [1, c, 8, 8], actType) : x;
    const groups = op === "Conv" && d.chance(0.25) ? c : 1;
    const shape = op === "Conv" ? [groups > 1 ? c : n, c / groups, 3, 3] : [c, n, 3, 3];
    const w = d.chance(0.9)
      ? weight(shape, op === "Conv" ? 0 : 1, 1)
      : g.constant(
          fractions(
            Array.from({ length: elementCount(shape) }, (_, i) => 0.01 * ((i % 13) - 6)),
            shape,
          ),
          "wf",
        );
    const inputs: Value[] = [xq, w];
    if (d.chance(0.4)) {
      const len = op === "Conv" ? shape[0]! : n;
      if (d.chance(0.15)) {
        const b32 = g.constant(codes("int32", [len], 5), "b32");
        inputs.push(g.append({ op: "DequantizeLinear", inputs: [b32, scaleOf([])], attrs: {} }).outputs[0]!);
      } else
        inputs.push(
          g.constant(
            fractions(
              Array.from({ length: len }, (_, i) => 0.1 * (i % 3)),
              [len],
            ),
            "bias",
          ),
        );
    }
    const attrs: Record<string, number | number[]> = { pads: [1, 1, 1, 1], group: groups };
    if (d.chance(0.8)) attrs.kernel_shape = [3, 3];
    y = g.append({ op, inputs, attrs, outputs: ["y"] }).outputs[0]!;
  } else {
    const x = g.addInput("x", tensorType(real, [m, kk]));
    const xq = quantizeX ? activation(x, [m, kk], actType) : x;
    const transB = op === "Gemm" && d.chance(0.5) ? 1 : 0;
    const shape = transB ? [n, kk] : [kk, n];
    let w = d.chance(0.92)
      ? weight(shape, transB ? 0 : 1, transB ? 1 : 0)
      : g.constant(
          fractions(
            Array.from({ length: elementCount(shape) }, (_, i) => 0.01 * ((i % 13) - 6)),
            shape,
          ),
          "wf",
        );
    if (d.chance(0.1)) w = activation(w, shape, "int8");
    y = g.append({ op, inputs: [xq, w], attrs: op === "Gemm" ? { transB } : {}, outputs: ["y"] }).outputs[0]!;
  }
  y.type = tensorType(real);
  if (d.chance(0.05)) y = g.append({ op: d.pick(["DynamicQuantizeLinear", "Compress", "Det"]), inputs: [y], outputs: ["z"] }).outputs[0]!;
  g.addOutput(y);
  return model;
}
