import { DTYPES, type DType, dtypeOf, elementCount } from "../quant/dtype.ts";
import { intAttr, intsAttr } from "./attr.ts";
import type { Node, Value } from "./ir.ts";
import { asFloat32, type TensorData } from "./tensor.ts";

/**
 * A constant as a consumer sees it: the stored tensor behind a chain of Cast, Transpose, Identity, Reshape, Squeeze, Unsqueeze and
 * Flatten. The file stores `root`; nothing is widened or copied until `float32()` or `tensor()` is called.
 */
export interface ConstantView {
  /** The stored constant. */
  readonly root: Value;
  /** Nodes from the root to the value, in execution order; empty when the value is the constant itself. */
  readonly chain: readonly Node[];
  /** Shape and type at the value. */
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** The elements at the value as float32, row-major. The root's own buffer where no conversion is needed: do not write to it. */
  float32(): Float32Array;
}

/** What a value's constant is; undefined when the value depends on an input, or on nodes that do more than move and cast. */
export function constantOf(value: Value | undefined): ConstantView | undefined {
  const chain: Node[] = [];
  let v = value;
  while (v && !v.isConstant) {
    const p: Node | undefined = v.producer;
    if (!p || p.outputs[0] !== v || !LOOK_THROUGH.has(p.op) || p.domain !== "") return undefined;
    chain.unshift(p);
    v = p.inputs[0];
  }
  const data = v?.data;
  if (!v || !data) return undefined;
  let shape: readonly number[] = data.shape;
  let dtype = data.dtype;
  const perms: { readonly from: readonly number[]; readonly perm: readonly number[] }[] = [];
  for (const n of chain) {
    if (n.op === "Cast") {
      const to = castTarget(n);
      if (to === undefined) return undefined;
      // Widening casts alone keep every value: a constant that is rounded on the way is not what its consumer sees.
      if (DTYPES[to].kind !== "float" || DTYPES[to].bits < DTYPES[dtype].bits || DTYPES[dtype].kind !== "float") return undefined;
      dtype = to;
    } else if (n.op === "Transpose") {
      const perm = intsAttr(n, "perm") ?? shape.map((_, i) => shape.length - 1 - i);
      perms.push({ from: shape, perm });
      shape = perm.map((p) => shape[p]!);
    } else if (n.op !== "Identity") {
      const next = reshaped(n, shape);
      if (next === undefined) return undefined;
      shape = next;
    }
  }
  return {
    root: v,
    chain,
    shape,
    dtype,
    float32: () => {
      let x = toFloat32(data);
      for (const p of perms) x = transpose(x, p.from, p.perm);
      return x;
    },
  };
}
const LOOK_THROUGH = new Set(["Cast", "Transpose", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"]);

/** The type a Cast makes; undefined when its attribute is not a known type. */
export function castTarget(n: Node): DType | undefined {
  return dtypeOf(intAttr(n, "to", 0));
}

/** The shape after a Reshape, Squeeze, Unsqueeze or Flatten with constant parameters. */
function reshaped(n: Node, shape: readonly number[]): readonly number[] | undefined {
  const count = elementCount(shape);
  const arg = n.inputs[1];
  if (arg && !arg.isConstant) return undefined;
  const list = arg?.data ? int64List(arg.data) : intsAttr(n, n.op === "Reshape" ? "shape" : "axes");
  if (n.op === "Flatten") {
    const axis = intAttr(n, "axis", 1);
    const at = axis < 0 ? axis + shape.length : axis;
    return [elementCount(shape.slice(0, at)), elementCount(shape.slice(at))];
  }
  if (n.op === "Squeeze") {
    const axes = list?.map((a) => (a < 0 ? a + shape.length : a));
    return shape.filter((d, i) => (axes ? !axes.includes(i) : d !== 1));
  }
  if (list === undefined) return undefined;
  if (n.op === "Unsqueeze") {
    const rank = shape.length + list.length;
    const axes = new Set(list.map((a) => (a < 0 ? a + rank : a)));
    const rest = [...shape];
    return Array.from({ length: rank }, (_, i) => (axes.has(i) ? 1 : rest.shift()!));
  }
  const keepZero = intAttr(n, "allowzero", 0) === 1;
  const dims = list.map((d, i) => (d === 0 && !keepZero ? shape[i]! : d));
  const known = elementCount(dims.filter((d) => d >= 0));
  const out = dims.map((d) => (d === -1 ? count / known : d));
  return out.every(Number.isInteger) && elementCount(out) === count ? out : undefined;
}

function int64List(t: TensorData): number[] | undefined {
  if (t.dtype !== "int64") return undefined;
  const b = t.bytes();
  const view = new DataView(b.buffer, b.byteOffset, b.byteLength);
  return Array.from({ length: b.byteLength / 8 }, (_, i) => Number(view.getBigInt64(8 * i, true)));
}

/** Elements of a float tensor as float32. float32: its own buffer; float16 and bfloat16: exact; float64: rounded. */
export function toFloat32(t: TensorData): Float32Array {
  switch (t.dtype) {
    case "float32":
      return asFloat32(t);
    case "float16":
      return halfToFloat(uint16(t));
    case "bfloat16": {
      const bits = Uint32Array.from(uint16(t), (x) => x << 16);
      return new Float32Array(bits.buffer);
    }
    case "float64": {
      const b = t.bytes();
      const c = b.byteOffset % 8 === 0 ? b : b.slice();
      return Float32Array.from(new Float64Array(c.buffer, c.byteOffset, c.byteLength / 8));
    }
    default:
      throw new TypeError(`internal: toFloat32 of ${t.dtype}`);
  }
}

function uint16(t: TensorData): Uint16Array {
  const b = t.bytes();
  const c = b.byteOffset % 2 === 0 ? b : b.slice();
  return new Uint16Array(c.buffer, c.byteOffset, c.byteLength / 2);
}

/** IEEE binary16 bit patterns to float32, exact; through a table of all 2^16 values. */
export function halfToFloat(half: Uint16Array): Float32Array {
  const table = halfTable();
  const out = new Uint32Array(half.length);
  for (let i = 0; i < half.length; i++) out[i] = table[half[i]!]!;
  return new Float32Array(out.buffer);
}
let halves: Uint32Array | undefined;
function halfTable(): Uint32Array {
  if (halves) return halves;
  const f = new Float32Array(65536);
  const bits = new Uint32Array(f.buffer);
  for (let h = 0; h < 65536; h++) {
    const e = (h >> 10) & 31;
    const m = h & 1023;
    if (e === 31) bits[h] = 0x7f800000 | (m << 13) | ((h & 0x8000) << 16);
    else f[h] = (h & 0x8000 ? -1 : 1) * (e === 0 ? m * 2 ** -24 : (1024 + m) * 2 ** (e - 25));
  }
  halves = bits;
  return bits;
}

/** Row-major transpose: `out[i_perm[0], i_perm[1], …] = x[i_0, i_1, …]`. */
export function transpose(x: Float32Array, shape: readonly number[], perm: readonly number[]): Float32Array {
  const rank = shape.length;
  const strides = new Array<number>(rank).fill(1);
  for (let i = rank - 2; i >= 0; i--) strides[i] = strides[i + 1]! * shape[i + 1]!;
  const dims = perm.map((p) => shape[p]!);
  const steps = perm.map((p) => strides[p]!);
  const out = new Float32Array(x.length);
  const index = new Int32Array(rank);
  let from = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = x[from]!;
    for (let d = rank - 1; d >= 0; d--) {
      from += steps[d]!;
      if (++index[d]! < dims[d]!) break;
      from -= steps[d]! * dims[d]!;
      index[d] = 0;
    }
  }
  return out;
}
