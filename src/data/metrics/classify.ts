import type { Metric, MetricResult } from "../types.ts";
import { bootstrapInterval, mean, meanInterval, wilsonInterval } from "./statistics.ts";
import { argmax, classesOf, fail, type MetricRow, memo, OUTPUT, type Outputs, outputOf, rowsOf } from "./types.ts";

interface TopOptions {
  readonly output?: string;
  /** Outputs with one column: above this is class 1. */
  readonly threshold?: number;
}
const THRESHOLD = { threshold: { type: "number", description: "for outputs with one column: above it is class 1 (0.5)" } } as const;

/** Rate of samples whose class is among the `k` best; a sample with several rows counts as their mean. */
function top(name: string, k: number): MetricRow {
  return {
    schema: { type: "object", properties: { ...OUTPUT, ...THRESHOLD }, additionalProperties: false },
    help: k === 1 ? "right class, %" : `right class among the best ${k}, %`,
    make(o: TopOptions): Metric {
      const verdict = memo((outputs, sample) => {
        const { rows, columns, x } = rowsOf(outputOf(name, outputs, o.output));
        const labels = classesOf(name, sample, rows);
        let right = 0;
        for (let r = 0; r < rows; r++) if (hit(x, r * columns, columns, labels[r]!, k, o.threshold ?? 0.5)) right++;
        return right / rows;
      });
      return {
        name,
        unit: "%",
        better: "higher",
        start() {
          const perSample: number[] = [];
          return {
            add: (outputs, sample) => void perSample.push(verdict(outputs, sample)),
            result: () => rate(perSample),
          };
        },
      };
    },
  };
}

function hit(x: ArrayLike<number>, from: number, columns: number, label: number, k: number, threshold: number): boolean {
  if (columns === 1) return (x[from]! > threshold ? 1 : 0) === label;
  const mine = x[from + label];
  if (mine === undefined || label >= columns) return false;
  // Ties go to the lower index, as argmax has it.
  let better = 0;
  for (let c = 0; c < columns; c++) if (x[from + c]! > mine || (x[from + c] === mine && c < label)) better++;
  return better < k && !Number.isNaN(mine);
}

/** Mean of per-sample rates, in percent. */
export function rate(perSample: readonly number[]): MetricResult {
  const p = mean(perSample);
  const whole = perSample.every((v) => v === 0 || v === 1);
  const n = perSample.length;
  let right = 0;
  for (const v of perSample) right += v;
  const interval = n === 0 ? undefined : whole ? wilsonInterval(right, n) : meanInterval(perSample);
  return {
    value: 100 * p,
    n,
    perSample: [...perSample],
    ...(interval ? { interval: [100 * interval[0], 100 * interval[1]] as const } : {}),
  };
}

interface AucOptions {
  readonly output?: string;
  readonly column?: number;
  readonly score?: "column" | "reconstruction";
  readonly input?: string;
}

const auc: MetricRow = {
  schema: {
    type: "object",
    properties: {
      ...OUTPUT,
      column: { type: "integer", description: "column that scores class 1 (the last)" },
      score: { enum: ["column", "reconstruction"], description: "reconstruction: mean squared difference from the input" },
      input: { type: "string", description: "for reconstruction: the input (the first)" },
    },
    additionalProperties: false,
  },
  help: "area under the ROC curve of labels 0 and 1, %",
  make(o: AucOptions): Metric {
    const scored = memo((outputs, sample) => {
      const t = outputOf("auc", outputs, o.output);
      if (o.score === "reconstruction") {
        const fed = o.input === undefined ? Object.values(sample.feeds)[0] : sample.feeds[o.input];
        if (fed === undefined || fed.data.length !== t.data.length)
          throw fail("auc", `output and input of sample "${sample.id}" differ in size`);
        return { scores: [meanSquare(rowsOf(t).x, rowsOf(fed).x)], labels: [binaryLabel(sample.label, sample.id)] };
      }
      const { rows, columns, x } = rowsOf(t);
      const c = o.column ?? columns - 1;
      const all = Array.from({ length: rows }, (_, r) => x[r * columns + c]!);
      const label = sample.label;
      if (rows === 1 || typeof label === "number") return { scores: [mean(all)], labels: [binaryLabel(label, sample.id)] };
      return { scores: all, labels: Array.from(classesOf("auc", sample, rows)) };
    });
    return {
      name: "auc",
      unit: "%",
      better: "higher",
      start() {
        const groups: { scores: readonly number[]; labels: readonly number[] }[] = [];
        return {
          add: (outputs, sample) => void groups.push(scored(outputs, sample)),
          result: () =>
            ({
              value: 100 * aucOf(groups),
              n: groups.length,
              perSample: undefined,
              get interval() {
                const i = bootstrapInterval(groups.length, (times) => aucOf(groups, times));
                return i && ([100 * i[0], 100 * i[1]] as const);
              },
            }) as MetricResult,
        };
      },
    };
  },
};

function binaryLabel(label: unknown, id: string): number {
  if (label === 0 || label === 1) return label;
  throw fail("auc", `sample "${id}" has the label ${String(label)}; 0 and 1 are expected`);
}

export function meanSquare(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let s = 0;
  for (let i = 0; i < x.length; i++) s += (x[i]! - y[i]!) ** 2;
  return s / x.length;
}

/** P(score of a 1 > score of a 0) + ½ P(equal), by ranks (Mann and Whitney 1947); each group counts `times` times. */
export function aucOf(
  groups: readonly { readonly scores: readonly number[]; readonly labels: readonly number[] }[],
  times?: Uint32Array,
): number {
  const all: { s: number; y: number; w: number }[] = [];
  groups.forEach((g, i) => {
    const w = times === undefined ? 1 : times[i]!;
    if (w > 0)
      g.scores.forEach((s, k) => {
        all.push({ s, y: g.labels[k]!, w });
      });
  });
  all.sort((a, b) => a.s - b.s);
  let below = 0; // weight of zeros with a lower score
  let wins = 0;
  let ones = 0;
  for (let i = 0; i < all.length; ) {
    let j = i;
    let zerosHere = 0;
    let onesHere = 0;
    for (; j < all.length && all[j]!.s === all[i]!.s; j++) {
      if (all[j]!.y === 1) onesHere += all[j]!.w;
      else zerosHere += all[j]!.w;
    }
    wins += onesHere * (below + zerosHere / 2);
    ones += onesHere;
    below += zerosHere;
    i = j;
  }
  return ones === 0 || below === 0 ? Number.NaN : wins / (ones * below);
}

interface F1Options extends TopOptions {
  readonly average?: "macro" | "binary";
  readonly positive?: number;
}

const f1: MetricRow = {
  schema: {
    type: "object",
    properties: {
      ...OUTPUT,
      ...THRESHOLD,
      average: { enum: ["macro", "binary"], description: "macro: mean over the classes; binary: of class `positive` (1)" },
      positive: { type: "integer", minimum: 0 },
    },
    additionalProperties: false,
  },
  help: "harmonic mean of precision and recall, %",
  make(o: F1Options): Metric {
    const pairs = memo((outputs, sample) => {
      const { rows, columns, x } = rowsOf(outputOf("f1", outputs, o.output));
      const labels = classesOf("f1", sample, rows);
      return Array.from({ length: rows }, (_, r) => {
        const guess = columns === 1 ? (x[r]! > (o.threshold ?? 0.5) ? 1 : 0) : argmax(x, r * columns, columns);
        return [guess, labels[r]!] as const;
      });
    });
    const score = (all: readonly (readonly (readonly [number, number])[])[], times?: Uint32Array): number => {
      const counts = new Map<number, { tp: number; fp: number; fn: number }>();
      const of = (c: number) => {
        let row = counts.get(c);
        if (row === undefined) counts.set(c, (row = { tp: 0, fp: 0, fn: 0 }));
        return row;
      };
      all.forEach((sample, i) => {
        const w = times === undefined ? 1 : times[i]!;
        if (w === 0) return;
        for (const [guess, label] of sample) {
          if (guess === label) of(label).tp += w;
          else {
            of(guess).fp += w;
            of(label).fn += w;
          }
        }
      });
      const one = (c: { tp: number; fp: number; fn: number }) => (c.tp === 0 ? 0 : (2 * c.tp) / (2 * c.tp + c.fp + c.fn));
      if ((o.average ?? "macro") === "binary") return one(counts.get(o.positive ?? 1) ?? { tp: 0, fp: 0, fn: 0 });
      return mean([...counts.values()].map(one));
    };
    return {
      name: "f1",
      unit: "%",
      better: "higher",
      start() {
        const all: (readonly (readonly [number, number])[])[] = [];
        return {
          add: (outputs: Outputs, sample) => void all.push(pairs(outputs, sample)),
          result: () =>
            ({
              value: 100 * score(all),
              n: all.length,
              perSample: undefined,
              get interval() {
                const i = bootstrapInterval(all.length, (times) => score(all, times));
                return i && ([100 * i[0], 100 * i[1]] as const);
              },
            }) as MetricResult,
        };
      },
    };
  },
};

export const CLASSIFY = { top1: top("top1", 1), top5: top("top5", 5), auc, f1 } as const satisfies Record<string, MetricRow>;
