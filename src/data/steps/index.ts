import { IMAGE } from "./image.ts";
import { NUMERIC } from "./numeric.ts";
import { OPEN } from "./open.ts";
import type { Run, StepRow } from "./types.ts";

export { type Run, StepError } from "./types.ts";

/** Every preprocessing step of a set file, by name. */
export const STEPS: Readonly<Record<string, StepRow>> = { open: OPEN, ...IMAGE, ...NUMERIC };

/** As it stands in the file: `{ divide: 255 }`, or a bare name for a step without arguments. */
export type StepConfig = string | Readonly<Record<string, unknown>>;

export interface CompiledStep {
  readonly name: string;
  readonly run: Run;
}

export function nameOf(step: StepConfig): string {
  return typeof step === "string" ? step : (Object.keys(step)[0] ?? "");
}
export function argOf(step: StepConfig): unknown {
  return typeof step === "string" ? null : Object.values(step)[0];
}

/** Steps whose names and arguments have been checked against `STEPS`. */
export function compileSteps(steps: readonly StepConfig[], folder: string): CompiledStep[] {
  return steps.map((s) => ({ name: nameOf(s), run: STEPS[nameOf(s)]!.make(argOf(s) as never, folder) }));
}
