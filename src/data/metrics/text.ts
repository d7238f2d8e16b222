import { numbers } from "../item.ts";
import type { Metric, MetricResult, Sample } from "../types.ts";
import { bootstrapInterval } from "./statistics.ts";
import { argmax, fail, type MetricRow, memo, OUTPUT, type Outputs, outputOf, rowsOf } from "./types.ts";

interface Loss {
  readonly nats: number;
  readonly tokens: number;
  readonly right: number;
}

/**
 * What each position should predict: the sample's label (as many as there are positions, or one fewer: then the last position predicts
 * nothing; negative: not counted), else the next token of an integer input.
 */
function targetsOf(sample: Sample, positions: number, input: string | undefined): ArrayLike<number> {
  const l = sample.label;
  if (l !== undefined && typeof l === "object" && "data" in l) {
    const t = numbers(l);
    if (t.length === positions) return t;
    if (t.length === positions - 1) return [...t, -1];
    throw fail("perplexity", `sample "${sample.id}" has ${t.length} targets for ${positions} positions`);
  }
  const fed =
    input === undefined ? Object.values(sample.feeds).find((t) => t.dtype === "int64" || t.dtype === "int32") : sample.feeds[input];
  if (fed === undefined || fed.data.length !== positions)
    throw fail("perplexity", `sample "${sample.id}" has neither targets as labels nor token ids as input`);
  const ids = numbers(fed);
  return Float64Array.from({ length: positions }, (_, i) => (i + 1 < positions ? ids[i + 1]! : -1));
}

/** Σ −log softmax(logits)[target], in float64. */
function lossOf(outputs: Outputs, sample: Sample, o: { readonly output?: string; readonly input?: string }): Loss {
  const { rows, columns, x } = rowsOf(outputOf("perplexity", outputs, o.output));
  const targets = targetsOf(sample, rows, o.input);
  let nats = 0;
  let tokens = 0;
  let right = 0;
  for (let r = 0; r < rows; r++) {
    const target = targets[r]!;
    if (target < 0) continue;
    if (target >= columns) throw fail("perplexity", `sample "${sample.id}": token ${target} is beyond the ${columns} logits`);
    const from = r * columns;
    const best = argmax(x, from, columns);
    const top = x[from + best]!;
    let sum = 0;
    for (let c = 0; c < columns; c++) sum += Math.exp(x[from + c]! - top);
    nats += Math.log(sum) - (x[from + target]! - top);
    if (best === target) right++;
    tokens++;
  }
  return { nats, tokens, right };
}

const perplexity: MetricRow = {
  schema: {
    type: "object",
    properties: { ...OUTPUT, input: { type: "string", description: "token ids, when there are no labels (the first integer input)" } },
    additionalProperties: false,
  },
  help: "exp(mean −log p of the next token); `more` has the loss and the next-token accuracy",
  unlabelled: true,
  make(o: { readonly output?: string; readonly input?: string }): Metric {
    const loss = memo((outputs, sample) => lossOf(outputs, sample, o));
    const total = (all: readonly Loss[], times?: Uint32Array): Loss => {
      let [nats, tokens, right] = [0, 0, 0];
      all.forEach((l, i) => {
        const w = times?.[i] ?? 1;
        nats += w * l.nats;
        tokens += w * l.tokens;
        right += w * l.right;
      });
      return { nats, tokens, right };
    };
    return {
      name: "perplexity",
      unit: "",
      better: "lower",
      start() {
        const all: Loss[] = [];
        return {
          add: (outputs, sample) => void all.push(loss(outputs, sample)),
          result(): MetricResult {
            const t = total(all);
            return {
              value: Math.exp(t.nats / t.tokens),
              n: all.length,
              perSample: undefined,
              more: { loss: t.nats / t.tokens, nextToken: (100 * t.right) / t.tokens, tokens: t.tokens },
              get interval() {
                return bootstrapInterval(all.length, (times) => {
                  const b = total(all, times);
                  return Math.exp(b.nats / b.tokens);
                });
              },
            } as MetricResult;
          },
        };
      },
    };
  },
};

export const TEXT = { perplexity } as const satisfies Record<string, MetricRow>;
