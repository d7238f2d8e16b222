import type { Emit } from "../grad/index.ts";
import type { Value } from "../graph/ir.ts";

/** Mean cross-entropy of logits [B, …, K] (classes on `axis` 1 or last when rank 2) with class numbers int64 [B]. */
export function crossEntropy(e: Emit, logits: Value, labels: Value): Value {
  const logp = e.like(e.op("LogSoftmax", [logits], { axis: -1 }), logits);
  const at = e.op("Unsqueeze", [labels, e.ints([-1])]);
  const taken = e.op("GatherElements", [logp, at], { axis: 1 });
  return e.op("Neg", [e.op("ReduceMean", [taken], { keepdims: 0 })]);
}

/** ‖s − t‖² / ‖t‖² over everything: 1/SQNR. The denominator is a constant of the batch. */
export function relativeError(e: Emit, student: Value, teacher: Value): Value {
  const d = e.like(e.op("Sub", [student, teacher]), student);
  const top = e.op("ReduceSumSquare", [d], { keepdims: 0 });
  const bottom = e.op("ReduceSumSquare", [teacher], { keepdims: 0 });
  return e.op("Div", [top, e.op("Max", [bottom, e.scalar(1e-20, "float32")])]);
}

/** T²·KL(softmax(t/T) ‖ softmax(s/T)), mean over rows (Hinton et al. 2015). */
export function distillation(e: Emit, student: Value, teacher: Value, temperature: number): Value {
  const k = e.scalar(1 / temperature, "float32");
  const ps = e.like(e.op("LogSoftmax", [e.like(e.op("Mul", [student, k]), student)], { axis: -1 }), student);
  const pt = e.op("LogSoftmax", [e.op("Mul", [teacher, k])], { axis: -1 });
  const gap = e.like(e.op("Sub", [pt, ps]), student);
  const weighted = e.like(e.op("Mul", [e.op("Exp", [pt]), gap]), student);
  const rows = e.op("ReduceSum", [weighted, e.ints([-1])], { keepdims: 0 });
  return e.op("Mul", [e.op("ReduceMean", [rows], { keepdims: 0 }), e.scalar(temperature * temperature, "float32")]);
}

/** Mean squared error with targets of the same shape. */
export function meanSquare(e: Emit, output: Value, target: Value): Value {
  const d = e.like(e.op("Sub", [output, target]), output);
  return e.op("ReduceMean", [e.like(e.op("Mul", [d, d]), output)], { keepdims: 0 });
}
