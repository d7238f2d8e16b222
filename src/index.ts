/**
 * The API. Every function takes typed options (the command line's, in camel case; unknown keys are errors), an `AbortSignal`, and a
 * callback for what happens meanwhile. Failures are `QcError`s with diagnostics.
 */
export { type Baseline, type CheckOptions, type CheckResult, check } from "./check.ts";
export { type QuantizeOptions, type QuantizeResult, quantize } from "./compile.ts";
export { type CostsOptions, costs } from "./costs.ts";
export { type Diagnostic, type DiagnosticCode, explain as explainDiagnostic, QcError } from "./diagnostics.ts";
export { type Explanation, explain } from "./explain.ts";
export {
  type QatImported,
  type QatImportOptions,
  type QatInserted,
  type QatInsertOptions,
  type QatTrained,
  type QatTrainOptions,
  qatImport,
  qatInsert,
  qatTrain,
} from "./finetune.ts";
export { type Forecast, forecast } from "./forecast.ts";
export type { Model } from "./graph/ir.ts";
export { loadModel, readModel, saveModel, writeModel } from "./graph/onnx/index.ts";
export { type Inspection, inspect } from "./inspect.ts";
export type { CompileEvent, RunOptions, Stage, StageFacts } from "./job.ts";
export { type LintFinding, lint } from "./lint.ts";
export { QUANTIZE, schemaOf } from "./options.ts";
export {
  type ApplyOptions,
  type ApplyResult,
  apply,
  type CalibrateOptions,
  type CalibrateResult,
  calibrate,
  type PlanOptions,
  type PlanResult,
  plan,
} from "./partial.ts";
export { readPlan, writePlan } from "./plan/io.ts";
export type { Plan, PlanBundle, Scheme, Site, Skip } from "./plan/types.ts";
export { type SensitivityOptions, type SensitivityReport, sensitivity } from "./sensitivity.ts";
export type { VerifyReport } from "./verify/index.ts";
export { VERSION } from "./version.ts";
