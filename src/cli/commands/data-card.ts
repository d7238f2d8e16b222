import { openData } from "../../data/index.ts";
import { findDuplicates } from "../../data/near.ts";
import type { CARD } from "../../gate-options.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { inputsOf } from "../../source.ts";
import type { Context, ExitCode } from "../command.ts";

/** What a set is, for whoever reads the results: every line is computed, none is typed in. */
export async function run(c: Context<typeof CARD>): Promise<ExitCode> {
  const inputs = inputsOf(loadModel(c.args[1]!));
  const data = await openData(c.args[0]!, inputs, { seed: c.options.seed, report: c.print.diagnostic });
  const found = await findDuplicates(data, { signal: c.signal, onProgress: (d, n) => c.print.progress("card", d, n) });
  c.print.end();
  const { calibrate, select, heldOut } = data.roles;
  const classes = new Map<string, number>();
  for (const k of data.classes ?? []) classes.set(String(k ?? "none"), (classes.get(String(k ?? "none")) ?? 0) + 1);
  const repeats = found.clusters.reduce((n, k) => n + k.indices.length - 1, 0);
  const card = [
    `# ${data.name}`,
    "",
    `- Samples: ${data.size} (${calibrate.length} calibrate, ${select.length} select, ${heldOut.length} held out)`,
    `- SHA-256 of set file and content, hashed once more so that guesses cannot be tested: \`${data.sha256}\``,
    `- Inputs: ${inputs.map((i) => `\`${i.name}\` ${i.dtype} [${i.dims.join(", ")}]`).join(", ")}`,
    `- Metric: ${data.metric?.name ?? "none; outputs are compared"}`,
    `- Repeats (${found.likeness} likeness): ${repeats} samples in ${found.clusters.length} groups, ${found.across.length} of them in more than one role`,
    ...(classes.size > 0
      ? [
          "",
          "| class | samples | share |",
          "|---|---:|---:|",
          ...[...classes].sort().map(([k, n]) => `| ${k} | ${n} | ${((100 * n) / data.size).toFixed(1)} % |`),
        ]
      : []),
    "",
    "What a statistics file of this set tells: extremes, zeros and histograms of the network's values over all calibrate samples together,",
    "and their number. Sample hashes in it are keyed with a secret of the set, so nobody without the set can test who is in it; an extreme",
    "can still be that of one single sample.",
    "",
  ].join("\n");
  c.print.document({
    ok: true,
    name: data.name,
    size: data.size,
    sha256: data.sha256,
    classes: Object.fromEntries(classes),
    repeats,
    across: found.across.length,
    card,
  });
  if (c.options.out !== undefined) {
    writeAtomic(c.options.out, card);
    c.print.out(`wrote      ${c.options.out}`);
  } else c.print.out(card.trimEnd());
  return 0;
}
