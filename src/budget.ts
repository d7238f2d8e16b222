import { QcError } from "./diagnostics.ts";
import type { VerifyReport } from "./verify/types.ts";

/** What a result must not exceed. */
export type Limit =
  /** Loss of the metric in its bad direction, relative to float (`%`) or in its own points (`pt`). */
  | { readonly kind: "drop"; readonly most: number; readonly unit: "%" | "pt"; readonly text: string }
  | { readonly kind: "size"; readonly most: number; readonly text: string }
  | { readonly kind: "bits"; readonly most: number; readonly text: string }
  /** Of a run: milliseconds, or a part of what the float model takes (`x`). */
  | { readonly kind: "latency"; readonly most: number; readonly unit: "ms" | "x"; readonly text: string };

const FORM = /^(drop|size|bits|latency)<=([0-9]*\.?[0-9]+)(%|pt|ms|us|s|x|[kmg]i?b|b)?$/i;
const BYTES: Readonly<Record<string, number>> = { b: 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 1024, mib: 1024 ** 2, gib: 1024 ** 3 };
const MS: Readonly<Record<string, number>> = { us: 1e-3, ms: 1, s: 1e3 };
export const BUDGET_FORM = "limits such as drop<=0.5%, drop<=0.5pt, size<=4MB, bits<=5, latency<=2ms or latency<=0.8x, joined with commas";

export function parseBudget(text: string): readonly Limit[] {
  return text.split(",").map((part) => {
    const m = FORM.exec(part.replace(/\s/g, ""));
    const bad = () => new QcError({ code: "cli/bad-value", flag: "--budget", got: part.trim(), want: BUDGET_FORM });
    if (m === null) throw bad();
    const value = Number(m[2]);
    const unit = (m[3] ?? "").toLowerCase();
    const t = part.trim();
    switch (m[1]!.toLowerCase()) {
      case "drop":
        if (unit !== "%" && unit !== "pt") throw bad();
        return { kind: "drop", most: value, unit, text: t };
      case "size":
        if (BYTES[unit] === undefined) throw bad();
        return { kind: "size", most: value * BYTES[unit], text: t };
      case "latency":
        if (unit === "x") return { kind: "latency", most: value, unit, text: t };
        if (MS[unit] === undefined) throw bad();
        return { kind: "latency", most: value * MS[unit], unit: "ms", text: t };
      default:
        if (unit !== "") throw bad();
        return { kind: "bits", most: value, text: t };
    }
  });
}

/** Limits that are missed, each with what was reached. A limit that could not be measured is missed too. */
export function missed(limits: readonly Limit[], report: VerifyReport): readonly { readonly limit: string; readonly got: string }[] {
  const out: { limit: string; got: string }[] = [];
  for (const l of limits) {
    const got = reached(l, report);
    if (got.value === undefined || got.value > l.most) out.push({ limit: l.text, got: got.text });
  }
  return out;
}

function reached(l: Limit, r: VerifyReport): { readonly value: number | undefined; readonly text: string } {
  switch (l.kind) {
    case "drop": {
      const m = r.levels.at(-1)?.metric;
      if (m === undefined) return { value: undefined, text: "the set has no metric, or no held-out sample" };
      const lost = m.better === "higher" ? -m.difference.value : m.difference.value;
      const value = l.unit === "pt" ? lost : (100 * lost) / Math.abs(m.float.value);
      return {
        value,
        text: `${m.name} falls by ${value.toFixed(3)} ${l.unit} over ${m.n} samples (± ${m.difference.se.toFixed(3)} points)`,
      };
    }
    case "size":
      return { value: r.bytes.after, text: `the file has ${r.bytes.after} bytes` };
    case "bits":
      return {
        value: r.bitsPerWeight,
        text: r.bitsPerWeight === undefined ? "no weight is quantized" : `${r.bitsPerWeight.toFixed(2)} bits per weight`,
      };
    case "latency": {
      // Engines of other runtimes are not run here: their profiles are all there is.
      if (r.time?.source === "tensorrt") {
        const { predictedMs, floatMs } = r.time;
        return l.unit === "ms"
          ? { value: predictedMs, text: `${predictedMs.toFixed(3)} ms by the layer profiles` }
          : { value: predictedMs / floatMs, text: `${(predictedMs / floatMs).toFixed(3)} of the float engine by the layer profiles` };
      }
      if (r.latency === undefined) return { value: undefined, text: "latency was not measured" };
      const { quantized, ratio, threads } = r.latency;
      return l.unit === "ms"
        ? { value: quantized.medianMs, text: `${quantized.medianMs.toFixed(3)} ms at ${threads} threads` }
        : { value: ratio, text: `${ratio.toFixed(3)} of the float model's time at ${threads} threads` };
    }
    default:
      return l satisfies never;
  }
}
