import type { GraphRule } from "../rule.ts";

/**
 * Graph inputs with a value of their own become constants: files before IR 4 had to list every weight as an input, and some exporters
 * still do. Inputs without a value stay, in their order. Exact for every caller that does not feed weights.
 */
export const constantInputs: GraphRule = {
  name: "constant-inputs",
  tolerance: 0,
  run(g, ctx) {
    if (g.parent) return 0;
    const defaults = g.inputs.filter((v) => v.data !== undefined);
    if (defaults.length === 0) return 0;
    const real = g.inputs.filter((v) => v.data === undefined);
    g.inputs.splice(0, g.inputs.length, ...real);
    // Constants that are no inputs exist since IR 4.
    if (ctx.model.irVersion < 4) ctx.model.irVersion = 4;
    ctx.report({ code: "prepare/default-inputs", inputs: defaults.map((v) => v.name), left: real.map((v) => v.name) });
    return defaults.length;
  },
};
