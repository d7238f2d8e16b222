export { type DimX, Emit, floatTensor } from "./emit.ts";
export { type Blocked, type GradientRequest, type Gradients, gradients } from "./gradients.ts";
export { type NoGradient, none, Row, type Rule } from "./rule.ts";
export { GRADIENTS, gradientOf, gradientTable } from "./table.ts";
