import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Value } from "../../src/graph/ir.ts";
import { createRuntime } from "../../src/runtime/index.ts";
import type { Runtime } from "../../src/runtime/types.ts";
import { Builder, lawful } from "./build.ts";

let runtime: Runtime;
beforeAll(() => {
  runtime = createRuntime();
});
afterAll(() => runtime.close());

/** Steps of a random network over [N, C, H, W]; each returns the next value and its channels. */
type State = { readonly v: Value; readonly c: number };
const STEPS: Readonly<Record<string, (b: Builder, s: State, n: number) => State>> = {
  conv: (b, { v, c }, n) => {
    const out = 2 + (n % 3);
    return {
      v: b.node("Conv", [v, b.weight("w", [out, c, 3, 3]), n % 2 ? b.weight("b", [out]) : undefined].slice(0, n % 2 ? 3 : 2), {
        pads: [1, 1, 1, 1],
      }),
      c: out,
    };
  },
  point: (b, { v, c }, n) => ({ v: b.node("Conv", [v, b.weight("w", [c + (n % 2), c, 1, 1])]), c: c + (n % 2) }),
  depthwise: (b, { v, c }) => ({ v: b.node("Conv", [v, b.weight("w", [c, 1, 3, 3])], { group: c, pads: [1, 1, 1, 1] }), c }),
  deconv: (b, { v, c }, n) => ({
    v: b.node("ConvTranspose", [v, b.weight("w", [c, 2 + (n % 2), 3, 3])], { pads: [1, 1, 1, 1] }),
    c: 2 + (n % 2),
  }),
  batchNorm: (b, { v, c }) => ({ v: b.batchNorm(v, c), c }),
  scale: (b, { v, c }, n) => ({ v: b.node(n % 2 ? "Mul" : "Div", [v, n % 3 ? b.weight("k", [c, 1, 1], 2) : b.floats("k", [1.5], [])]), c }),
  shift: (b, { v, c }, n) => ({ v: n % 2 ? b.node("Sub", [b.weight("s", [1, c, 1, 1]), v]) : b.node("Add", [v, b.floats("s", [0.5])]), c }),
  relu: (b, { v, c }) => ({ v: b.node("Relu", [v]), c }),
  identity: (b, { v, c }, n) => ({ v: n % 2 ? b.node("Identity", [v]) : b.node("Cast", [v], { to: 1 }), c }),
  pad: (b, { v, c }, n) => ({ v: b.node("Pad", [v, b.ints("p", [0, 0, n % 2, 1, 0, 0, 1, 0])]), c }),
  pool: (b, { v, c }, n) => ({ v: b.node("AveragePool", [v], { kernel_shape: [2, 2], count_include_pad: n % 2, pads: [0, 0, 1, 1] }), c }),
  residual: (b, { v, c }) => ({ v: b.node("Add", [v, b.node("Relu", [v])]), c }),
  folded: (b, { v, c }) => ({ v: b.node("Mul", [v, b.node("Sqrt", [b.node("Abs", [b.weight("k", [c, 1, 1], 3)])])]), c }),
};

test("random convolutional networks mean the same after prepare, and prepare twice is prepare once", async () => {
  const names = Object.keys(STEPS);
  const step = fc.record({ op: fc.constantFrom(...names), n: fc.nat(11) });
  const program = fc.record({ steps: fc.array(step, { minLength: 1, maxLength: 9 }), expose: fc.nat(8), symbolic: fc.boolean() });
  const applied = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(program, async ({ steps, expose, symbolic }) => {
      const b = new Builder();
      let s: State = { v: b.input("x", [symbolic ? "N" : 2, 2, 5, 5]), c: 2 };
      steps.forEach(({ op, n }, i) => {
        s = STEPS[op]!(b, s, n);
        if (i === expose && i < steps.length - 1) b.g.addOutput(s.v);
      });
      // Each rule rounds once more; a chain of nine rounds nine times.
      const p = await lawful(runtime, b.output(s.v), 1e-4);
      for (const { rule, count } of p.applied) applied.set(rule, (applied.get(rule) ?? 0) + count);
    }),
    { seed: 20, numRuns: 60 },
  );
  // A property that never meets a rule proves nothing about it.
  for (const rule of ["fold-batchnorm", "fold-affine", "fold-pad", "fold-constants", "drop-identity"])
    expect(applied.get(rule), rule).toBeGreaterThan(3);
});
