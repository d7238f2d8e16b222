import { type Section, warning } from "./format.ts";

export const CALIBRATE = {
  "calibrate/narrow-range": (f: { readonly value: string; readonly kept: number; readonly calibrator: string }) =>
    warning(
      `The range that "${f.calibrator}" chose for "${f.value}" keeps ${(100 * f.kept).toFixed(1)} % of the observed maximum`,
      "Look at its histogram (qc stats show), or use --calibrator auto.",
    ),
} as const satisfies Section;
