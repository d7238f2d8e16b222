import type { Sample } from "../data/types.ts";
import { QcError } from "../diagnostics.ts";
import type { Tensor } from "../runtime/types.ts";

/** What the task loss compares the first output with: class numbers, or values of the output's own shape. */
export type Targets =
  | { readonly kind: "classes"; readonly of: BigInt64Array }
  /** One row a sample, each of `each` elements; `shape` is that of a batch. */
  | { readonly kind: "values"; readonly of: Float32Array; readonly each: number; readonly shape: readonly number[] };

/** Labels of the samples as targets. Every one that does not fit is named. */
export function targetsOf(
  samples: readonly Sample[],
  classes: number | undefined,
  output: readonly number[] | undefined,
  set: string,
): Targets {
  const named = samples.some((s) => typeof s.label === "number" || typeof s.label === "string");
  if (classes !== undefined && (named || samples.every((s) => s.label === undefined)))
    return { kind: "classes", of: classLabels(samples, classes, set) };
  if (!output || output.length === 0) throw new QcError({ code: "qat/no-logits", set });
  const each = output.slice(1).reduce((a, b) => a * b, 1);
  return { kind: "values", of: valueLabels(samples, each, set), each, shape: output };
}

function classLabels(samples: readonly Sample[], classes: number, set: string): BigInt64Array {
  const bad: string[] = [];
  const out = BigInt64Array.from(samples, (s) => {
    const { label } = s;
    if (typeof label === "number" && Number.isInteger(label) && label >= 0 && label < classes) return BigInt(label);
    bad.push(`${s.id}: ${typeof label === "number" || typeof label === "string" ? label : typeof label}`);
    return 0n;
  });
  if (bad.length > 0) throw new QcError({ code: "qat/label-range", set, classes, samples: bad });
  return out;
}

function valueLabels(samples: readonly Sample[], each: number, set: string): Float32Array {
  const out = new Float32Array(samples.length * each);
  const bad: string[] = [];
  samples.forEach((s, i) => {
    const numbers = numbersOf(s.label);
    if (numbers?.length === each && numbers.every(Number.isFinite)) out.set(numbers, i * each);
    else bad.push(`${s.id}: ${numbers === undefined ? "no numbers" : `${numbers.length} numbers`}`);
  });
  if (bad.length > 0) throw new QcError({ code: "qat/label-shape", set, want: each, samples: bad });
  return out;
}

function numbersOf(label: Sample["label"]): number[] | undefined {
  if (typeof label === "number") return [label];
  if (Array.isArray(label)) return label.every((x) => typeof x === "number") ? (label as number[]) : undefined;
  const data = (label as Tensor | undefined)?.data;
  return data === undefined || typeof label !== "object" ? undefined : Array.from(data as ArrayLike<number | bigint>, Number);
}
