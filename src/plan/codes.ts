import { constantOf } from "../graph/constant.ts";
import type { Value } from "../graph/ir.ts";
import { chooseSymmetric } from "../quant/affine.ts";
import { elementCount, isIntDType } from "../quant/dtype.ts";
import { absmaxOf, decode, encode } from "../quant/encode.ts";
import { isCodeDType } from "../quant/float8.ts";
import { unpackCodes } from "../quant/pack.ts";
import type { WeightPlanSite } from "./resolve.ts";
import { readNumbers } from "./tensors.ts";
import type { PlanBundle } from "./types.ts";

/** A weight as codes: what every form starts from. `codes` flat and row-major in `shape`. */
export interface Coded {
  readonly site: WeightPlanSite;
  readonly value: Value;
  readonly shape: readonly number[];
  /** Of a large weight they are made anew each time, since a model may be larger than memory: ask once and hold them while needed. */
  readonly codes: Int32Array;
  /** Whether they are. */
  readonly large: boolean;
  /** Of two levels: their product. */
  readonly scale: Float64Array;
  readonly zeroPoint: Float64Array;
}

/** Elements of a weight up to which its codes are kept. */
const MOST_KEPT = 1 << 22;

/** The codes of a site: those of the plan, else round-to-nearest of the constant. */
export function codesOf(bundle: PlanBundle, site: WeightPlanSite, value: Value): Coded {
  const view = constantOf(value);
  if (!view) throw new Error(`internal: "${site.value}" is no constant: the plan was not checked`);
  const { dtype } = site.scheme;
  if (!isCodeDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
  const scale = scalesOf(bundle, site);
  const zeroPoint = readNumbers(bundle, site.zeroPoint);
  const { narrow, granularity } = site.scheme;
  const make = () =>
    site.codes
      ? storedCodes(bundle, site.codes.tensor)
      : encode(view.float32(), view.shape, { dtype, narrow, granularity, scale, zeroPoint });
  const rest = { site, value, shape: view.shape, scale, zeroPoint };
  if (elementCount(view.shape) <= MOST_KEPT) return { ...rest, large: false, codes: make() };
  return {
    ...rest,
    large: true,
    get codes() {
      return make();
    },
  };
}

/** The scales of a weight, each the product of its two levels where there are two. */
function scalesOf(bundle: PlanBundle, site: WeightPlanSite): Float64Array {
  const scale = readNumbers(bundle, site.scale);
  const { tensorScale } = site;
  return tensorScale === undefined ? scale : scale.map((s) => Math.fround(s * tensorScale));
}

function storedCodes(bundle: PlanBundle, name: string): Int32Array {
  const t = bundle.tensors.get(name)!;
  if (!isIntDType(t.dtype)) throw new Error(`internal: codes stored as ${t.dtype}`);
  return unpackCodes(
    t.bytes(),
    t.dtype,
    t.shape.reduce((a, b) => a * b, 1),
  );
}

/**
 * The 8-bit parameters of a weight that is stored in 4 bits and multiplied in 8 (form `qdq-requantized`): per output channel,
 * scale = max |w| / 127 over the dequantized weight: a matrix [K, N] (or [N, K]) in blocks, or any shape by its channels. They follow from
 * the codes, so that the plan does not carry them.
 */
export function requantizedParams(c: Coded): { readonly axis: number; readonly scale: Float32Array; readonly real: Float32Array } {
  const { dtype, granularity } = c.site.scheme;
  if (!isIntDType(dtype) || granularity.kind === "tensor" || (granularity.kind === "block" && c.shape.length !== 2))
    throw new Error("internal: requantized weights are matrices in blocks, or have channels");
  const axis = granularity.kind === "block" ? 1 - granularity.axis : granularity.axis;
  const real = decode(c.codes, c.shape, { dtype, granularity, scale: Float32Array.from(c.scale), zeroPoint: c.zeroPoint });
  const most = absmaxOf(real, c.shape, { kind: "channel", axis });
  return { axis, scale: Float32Array.from(most, (m) => chooseSymmetric(m, "int8").scale), real };
}
