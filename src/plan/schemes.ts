import { QcError } from "../diagnostics.ts";
import type { Recipe } from "./recipes/index.ts";

/** How one product is stored and computed, apart from the recipe of the rest. */
export interface LayerScheme {
  /** As written: `float`, `w8a8`, `w4a8`, `w4b32` … */
  readonly name: string;
  /** undefined: the product stays float. */
  readonly weight: Recipe["weight"];
  /** "recipe": as the recipe has it. */
  readonly activations: "recipe" | "none";
  /** Bits of its inputs where activations are static integers; absent: as the recipe has it. */
  readonly activationBits?: 4 | 8 | 16;
  /** Why this layer has it; goes into the plan. */
  readonly because?: string;
  /** Whose wish it is; of a float layer the code of its skip. Default: the budget's. */
  readonly by?: "user" | "budget";
}

/** Whether a layer of the scheme reads its data as codes with fixed parameters. */
export function isCodes(s: LayerScheme): boolean {
  return s.weight !== undefined && s.activations !== "none";
}

export const SCHEME_FORM =
  "float, or w2, w4, w7, w8 with b32 for blocks of 32 or t for one scale a tensor, and a4, a8 or a16 for activations, such as w4a8 or w4b32";

/** Weight-only codes below 8 bits need blocks; 32 is what most kernels have. */
const DEFAULT_BLOCK = 32;
const JOINED_BLOCK = 64;

/**
 * `float`, or `w` bits [`b` block | `t`] [`a4` | `a8` | `a16`]. Beside activations weights are symmetric; alone and below 8 bits they have
 * zero points. `t`: one scale for the whole weight. 7 bits are stored as int8.
 */
export function parseScheme(text: string): LayerScheme | undefined {
  if (text === "float") return { name: text, weight: undefined, activations: "none" };
  const m = /^w([2478])(?:b([1-9][0-9]*)|(t))?(?:a(4|8|16))?$/.exec(text);
  if (!m) return undefined;
  const asked = Number(m[1]) as 2 | 4 | 7 | 8;
  const bits = asked === 7 ? 8 : asked;
  const joined = m[4] !== undefined;
  // Beside activations blocks are a wish: targets without such a form give one scale a channel.
  const whole = m[3] !== undefined;
  const blocks = !whole && (m[2] !== undefined || bits < 8);
  return {
    name: text,
    weight: {
      dtype: `int${bits}`,
      per: whole ? "tensor" : blocks ? "block" : "channel",
      ...(blocks && { blockSize: m[2] === undefined ? (joined ? JOINED_BLOCK : DEFAULT_BLOCK) : Number(m[2]) }),
      symmetric: joined || bits === 8,
      ...(asked === 7 && { bits: 7 as const }),
    },
    activations: joined ? "recipe" : "none",
    ...(joined && { activationBits: Number(m[4]) as 4 | 8 | 16 }),
  };
}

/** One line of `--scheme`: `PATTERN=SCHEME`; names may hold `=`, schemes do not. */
export interface Pin {
  readonly pattern: string;
  readonly scheme: LayerScheme;
}
export function parsePin(text: string): Pin {
  const at = text.lastIndexOf("=");
  const scheme = at > 0 ? parseScheme(text.slice(at + 1).trim()) : undefined;
  if (!scheme)
    throw new QcError({ code: "cli/bad-value", flag: "--scheme", got: text, want: `PATTERN=SCHEME, where SCHEME is ${SCHEME_FORM}` });
  return { pattern: text.slice(0, at).trim(), scheme };
}
