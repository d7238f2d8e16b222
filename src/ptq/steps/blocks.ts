import { withSolved } from "../amend.ts";
import { reconstructBlocks } from "../blocks/index.ts";
import { Streams } from "../streams.ts";
import { trySolved } from "./rounding.ts";
import { fewBits, ROUNDED, type State } from "./state.ts";

/** Of Adam, for each block. */
const STEPS = 400;
/** Inputs and outputs of one block, all samples. */
const MEMORY = 64 * 2 ** 20;

/** The rounding of residual blocks as wholes, from the best codes so far. Fewer than 8 bits: as in `learned`, there is nothing to win at 8. */
export async function blocks(s: State): Promise<void> {
  const { ctx } = s;
  if (!fewBits(s) || s.solved.length === 0 || !ctx.types) return;
  const result = await reconstructBlocks({
    streams: new Streams(s.model, s.best, ctx.types),
    types: ctx.types,
    runtime: ctx.runtime,
    solved: s.solved,
    indices: s.calibrate,
    load: async (i) => (await ctx.data.sample(i)).feeds,
    memoryBytes: ctx.memoryBytes ?? MEMORY,
    steps: STEPS,
    seed: ctx.seed ?? 0,
    ...(ctx.signal && { signal: ctx.signal }),
  });
  const better = result.blocks.filter((b) => b.after < b.before);
  if (better.length === 0) return;
  const solved = result.solved.map((x) => ({ ...x, gainDb: 0 }));
  const detail = `${better.length} of ${result.blocks.length} blocks`;
  await trySolved(s, "blocks", withSolved(s.best, solved, ROUNDED), solved, detail, {
    gains: better.map(({ block, before, after }) => ({
      at: block.layers.map((l) => l.key).join(", "),
      gainDb: 10 * Math.log10(before / after),
    })),
  });
}
