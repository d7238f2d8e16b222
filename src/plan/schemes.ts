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
  readonly activationBits?: 4 | 8;
  /** Why this layer has it; goes into the plan. */
  readonly because?: string;
  /** Whose wish it is; of a float layer the code of its skip. Default: the budget's. */
  readonly by?: "user" | "budget";
}

export const SCHEME_FORM =
  "float, or w2, w4, w8 with b32 for blocks of 32 and a8 for 8-bit activations, a4 for 4-bit ones, such as w4a8 or w4b32";

/** Weight-only codes below 8 bits need blocks; 32 is what most kernels have. */
const DEFAULT_BLOCK = 32;
const JOINED_BLOCK = 64;

/** `float`, or `w` bits [`b` block] [`a8` | `a4`]. Beside activations weights are symmetric; alone and below 8 bits they have zero points. */
export function parseScheme(text: string): LayerScheme | undefined {
  if (text === "float") return { name: text, weight: undefined, activations: "none" };
  const m = /^w([248])(?:b([1-9][0-9]*))?(?:a([48]))?$/.exec(text);
  if (!m) return undefined;
  const bits = Number(m[1]) as 2 | 4 | 8;
  const joined = m[3] !== undefined;
  // Beside activations blocks are a wish: targets without such a form give one scale a channel.
  const blocks = m[2] !== undefined || bits < 8;
  return {
    name: text,
    weight: {
      dtype: `int${bits}`,
      per: blocks ? "block" : "channel",
      ...(blocks && { blockSize: m[2] === undefined ? (joined ? JOINED_BLOCK : DEFAULT_BLOCK) : Number(m[2]) }),
      symmetric: joined || bits === 8,
    },
    activations: joined ? "recipe" : "none",
    ...(joined && { activationBits: m[3] === "4" ? 4 : 8 }),
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
