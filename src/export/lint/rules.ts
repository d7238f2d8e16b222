import { ORT_RULES } from "./ort.ts";
import { TENSORRT_RULES } from "./tensorrt/index.ts";
import type { LintRule } from "./types.ts";

/** Every rule, in order of its number. */
export const LINT_RULES: readonly LintRule[] = [...TENSORRT_RULES, ...ORT_RULES];
