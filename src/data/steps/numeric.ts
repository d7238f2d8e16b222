import { type DType, elementCount } from "../../quant/dtype.ts";
import { castItem } from "../cast.ts";
import { isPlain, numbers, type TensorItem } from "../item.ts";
import { StepError, type StepRow, tensorOf } from "./types.ts";

const NUMBERS = { anyOf: [{ type: "number" }, { type: "array", items: { type: "number" }, minItems: 1 }] } as const;
type PerChannel = number | readonly number[];
/** `divide: 255`, `divide: [58, 57, 57]`, `divide: { by: [58, 57, 57], axis: 0 }`. */
const OPERAND = {
  anyOf: [
    ...NUMBERS.anyOf,
    { type: "object", properties: { by: NUMBERS, axis: { type: "integer" } }, required: ["by"], additionalProperties: false },
  ],
} as const;
type Operand = PerChannel | { readonly by: PerChannel; readonly axis?: number };

/** The channel axis for a list of this length: as given, as image steps left it, else the last or the first axis of that size. */
function axisFor(t: TensorItem, length: number, given: number | undefined): number {
  const rank = t.dims.length;
  const last = rank - 1;
  const axis = given !== undefined ? (given < 0 ? given + rank : given) : t.layout === "chw" ? 0 : t.dims[last] === length ? last : 0;
  if (t.dims[axis] !== length)
    throw new StepError(`${length} numbers do not fit axis ${axis} of shape [${t.dims.join(",")}]; give one number, or the right axis`);
  return axis;
}

/** Applies `f(x, operand)` with float32 results (float64 stays float64), the operand per element of the channel axis. */
function arithmetic(item: TensorItem, by: PerChannel, axis: number | undefined, f: (x: number, k: number) => number): TensorItem {
  if (item.dtype === "string") throw new StepError("it works on numbers, and this is text");
  const x = numbers(item);
  const double = item.dtype === "float64" && item.soft !== true;
  const y = double ? new Float64Array(x.length) : new Float32Array(x.length);
  if (typeof by === "number") {
    for (let i = 0; i < x.length; i++) y[i] = f(x[i]!, by);
  } else {
    const a = axisFor(item, by.length, axis);
    const inner = elementCount(item.dims.slice(a + 1));
    let i = 0;
    while (i < x.length)
      for (let c = 0; c < by.length; c++) {
        const k = by[c]!;
        for (let j = 0; j < inner; j++, i++) y[i] = f(x[i]!, k);
      }
  }
  return { ...item, dtype: double ? "float64" : "float32", data: y, soft: false };
}

function operation(help: string, f: (x: number, k: number) => number): StepRow {
  return {
    schema: OPERAND,
    help,
    make(arg: Operand) {
      const [by, axis] = typeof arg === "object" && "by" in arg ? [arg.by, arg.axis] : [arg, undefined];
      return (item) => arithmetic(tensorOf(item), by, axis, f);
    },
  };
}

export const NUMERIC = {
  divide: operation("x / k; k is a number or one per channel", (x, k) => x / k),
  multiply: operation("x · k", (x, k) => x * k),
  add: operation("x + k", (x, k) => x + k),
  subtract: operation("x − k", (x, k) => x - k),
  normalize: {
    schema: {
      type: "object",
      properties: { mean: NUMBERS, std: NUMBERS, axis: { type: "integer" } },
      required: ["mean", "std"],
      additionalProperties: false,
    },
    help: "(x − mean) / std, per channel",
    make(a: { readonly mean: PerChannel; readonly std: PerChannel; readonly axis?: number }) {
      return (item) => {
        const centred = arithmetic(tensorOf(item), a.mean, a.axis, (x, k) => x - k);
        return arithmetic(centred, a.std, a.axis, (x, k) => x / k);
      };
    },
  },
  clip: {
    schema: { type: "array", items: { type: "number" }, minItems: 2, maxItems: 2 },
    help: "limits values to [low, high]",
    make(a: readonly [number, number]) {
      return (item) => arithmetic(tensorOf(item), 0, undefined, (x) => Math.min(a[1], Math.max(a[0], x)));
    },
  },
  cast: {
    schema: { type: "string" },
    help: "to another type; integers saturate, fractions are cut off",
    make(to: DType) {
      if (!isPlain(to)) throw new StepError(`"${to}" is no type that a graph can be fed`);
      return (item) => {
        const r = castItem(tensorOf(item), to, "asked");
        if (!r.ok) throw new StepError(r.why);
        return r.item;
      };
    },
  },
  reshape: {
    schema: { type: "array", items: { type: "integer", minimum: -1 } },
    help: "to these dimensions (of one sample); one may be −1",
    make(to: readonly number[]) {
      return (item) => {
        const t = tensorOf(item);
        const n = elementCount(t.dims);
        const known = to.filter((d) => d !== -1).reduce((a, b) => a * b, 1);
        const dims = to.map((d) => (d === -1 ? n / known : d));
        if (to.filter((d) => d === -1).length > 1 || !dims.every(Number.isInteger) || elementCount(dims) !== n)
          throw new StepError(`[${t.dims.join(",")}] does not become [${to.join(",")}]`);
        return { ...t, dims, layout: undefined };
      };
    },
  },
  transpose: {
    schema: { type: "array", items: { type: "integer", minimum: 0 } },
    help: "permutes the axes (of one sample)",
    make(perm: readonly number[]) {
      return (item) => transpose(tensorOf(item), perm);
    },
  },
  windows: {
    schema: {
      type: "object",
      properties: { size: { type: "integer", minimum: 1 }, hop: { type: "integer", minimum: 1 } },
      required: ["size"],
      additionalProperties: false,
    },
    help: "[t, …] → [n, size · …]: overlapping windows along the first axis, flattened; they become the batch",
    make(a: { readonly size: number; readonly hop?: number }) {
      return (item) => windows(tensorOf(item), a.size, a.hop ?? 1);
    },
  },
} as const satisfies Record<string, StepRow>;

export function transpose(t: TensorItem, perm: readonly number[]): TensorItem {
  const rank = t.dims.length;
  if (perm.length !== rank || new Set(perm).size !== rank || perm.some((p) => p >= rank))
    throw new StepError(`[${perm.join(",")}] does not permute the axes of [${t.dims.join(",")}]`);
  const dims = perm.map((p) => t.dims[p]!);
  const stride = new Array<number>(rank);
  for (let j = rank - 1, s = 1; j >= 0; j--) {
    stride[j] = s;
    s *= t.dims[j]!;
  }
  const step = perm.map((p) => stride[p]!);
  const out = t.data.slice();
  const index = new Array<number>(rank).fill(0);
  let from = 0;
  for (let to = 0; to < out.length; to++) {
    out[to] = t.data[from]!;
    for (let j = rank - 1; j >= 0; j--) {
      from += step[j]!;
      if (++index[j]! < dims[j]!) break;
      from -= step[j]! * dims[j]!;
      index[j] = 0;
    }
  }
  return { ...t, dims, data: out, layout: undefined };
}

function windows(t: TensorItem, size: number, hop: number): TensorItem {
  const [length, ...rest] = t.dims;
  if (length === undefined || length < size) throw new StepError(`a window of ${size} does not fit [${t.dims.join(",")}]`);
  const n = Math.floor((length - size) / hop) + 1;
  const row = elementCount(rest);
  if (Array.isArray(t.data)) throw new StepError("it works on numbers, and this is text");
  const Data = t.data.constructor as new (n: number) => Float32Array;
  const out = new Data(n * size * row);
  for (let i = 0; i < n; i++) out.set((t.data as Float32Array).subarray(i * hop * row, (i * hop + size) * row), i * size * row);
  return { ...t, dims: [n, size * row], data: out, layout: undefined };
}
