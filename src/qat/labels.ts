import type { Sample } from "../data/types.ts";
import { QcError } from "../diagnostics.ts";

/** Class numbers of the samples; every one that is missing or not a class of the network is named. */
export function classLabels(samples: readonly Sample[], classes: number | undefined, set: string): BigInt64Array {
  if (classes === undefined) throw new QcError({ code: "qat/no-logits", set });
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
