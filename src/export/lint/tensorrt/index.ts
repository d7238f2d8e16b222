import type { LintRule } from "../types.ts";
import { BLOCK_FLOAT_RULES } from "./blockfloat.ts";
import { PLATFORM_RULES } from "./platform.ts";
import { PRODUCT_RULES } from "./products.ts";
import { VALUE_RULES } from "./values.ts";

/** In order of their numbers. */
export const TENSORRT_RULES: readonly LintRule[] = [...VALUE_RULES, ...PLATFORM_RULES, ...PRODUCT_RULES, ...BLOCK_FLOAT_RULES].sort(
  (a, b) => (a.id < b.id ? -1 : 1),
);
