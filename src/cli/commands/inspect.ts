import { explain, QcError } from "../../diagnostics.ts";
import type { Model } from "../../graph/ir.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import { inspect } from "../../inspect.ts";
import { fileNameOf } from "../../io/path.ts";
import type { FlagOption } from "../../options.ts";
import { type Profile, profileModel } from "../../prepare/profile.ts";
import { createRuntime } from "../../runtime/index.ts";
import type { Context, ExitCode } from "../command.ts";
import { bytes, table } from "../print.ts";

/** What a run costs, where the runtime can tell the shapes; undefined and the reason where it does not take the model. */
async function costOf(model: Model, signal: AbortSignal): Promise<Profile | string> {
  const runtime = createRuntime({ workers: 1, signal });
  try {
    return await profileModel(model, runtime);
  } catch (e) {
    signal.throwIfAborted();
    if (!(e instanceof QcError)) throw e;
    return e.diagnostics[0] === undefined ? "" : explain(e.diagnostics[0]).text;
  } finally {
    await runtime.close();
  }
}

/** Operations by the types of a product's operands, most first. */
function macsByType(p: Profile): [string, number][] {
  const sums = new Map<string, number>();
  for (const n of p.nodes) if (n.macs !== undefined && n.macs > 0) sums.set(n.types, (sums.get(n.types) ?? 0) + n.macs);
  return [...sums].sort((a, b) => b[1] - a[1]);
}

export async function run(c: Context<{ readonly nodes: FlagOption }>): Promise<ExitCode> {
  const path = c.args[0]!;
  const model = loadModel(path);
  const { nodeList, ...facts } = inspect(model);
  const cost = await costOf(model, c.signal);
  const known = typeof cost === "string" ? undefined : cost;
  const macs = known && macsByType(known);
  c.print.document({
    ok: true,
    file: fileNameOf(path),
    ...facts,
    cost: known ? { macs: known.macs, macsByType: Object.fromEntries(macs ?? []), uncounted: known.uncounted, memory: known.memory } : null,
    ...(c.options.nodes ? { nodeList } : {}),
  });
  const counts = (r: Readonly<Record<string, number>>, most: number) => {
    const all = Object.entries(r);
    const shown = all.slice(0, most).map(([k, n]) => `${k} ${n}`);
    return all.length > most ? `${shown.join(" · ")} · ${all.length - most} more kinds` : shown.join(" · ");
  };
  const rows: string[][] = [
    ["producer", facts.producer === "" ? "not given" : facts.producer],
    [
      "opsets",
      Object.entries(facts.opsets)
        .map(([d, v]) => `${d} ${v}`)
        .join(", "),
    ],
    ...facts.inputs.map((p, i) => [i === 0 ? "inputs" : "", `${p.name}: ${p.type}`]),
    ...facts.outputs.map((p, i) => [i === 0 ? "outputs" : "", `${p.name}: ${p.type}`]),
    [
      "nodes",
      `${facts.nodes}${facts.subgraphs > 0 ? ` in ${facts.subgraphs + 1} graphs` : ""}, ${facts.products} of them products or recurrent`,
    ],
    ["operators", counts(facts.operators, 12)],
    ["parameters", facts.parameters.toLocaleString("en-US")],
    [
      "bytes",
      Object.entries(facts.bytesByType)
        .map(([t, n]) => `${t} ${bytes(n)}`)
        .join(" · ") + (facts.externalBytes > 0 ? ` (${bytes(facts.externalBytes)} outside the file)` : ""),
    ],
    ...Object.entries(facts.metadata).map(([k, v]) => [k, v]),
  ];
  if (known && macs) {
    const each = macs.map(([t, n]) => `${t} ${n.toLocaleString("en-US")}`).join(" · ");
    const open = known.uncounted.length > 0 ? `; ${known.uncounted.length} products of unknown shape` : "";
    rows.push(["MACs a run", `${known.macs.toLocaleString("en-US")}${macs.length > 0 ? `: ${each}` : ""}${open}`]);
    const { peakBytes, peakAt, totalBytes, unknown } = known.memory;
    const missing = unknown.length > 0 ? `; ${unknown.length} values of unknown shape are not in it` : "";
    rows.push(["activations", `${bytes(peakBytes)} at once, at "${peakAt}"; ${bytes(totalBytes)} if none is freed${missing}`]);
  } else rows.push(["MACs a run", `not known: ${String(cost)}`]);
  if (facts.cache !== undefined) {
    const { tensors, bytesPerToken, types, contextLength } = facts.cache;
    const limit = contextLength === undefined ? "no limit in the graph" : `${contextLength.toLocaleString("en-US")} positions`;
    const full = contextLength === undefined ? "" : `, ${bytes(bytesPerToken * contextLength)} when full`;
    rows.push(["cache", `${bytes(bytesPerToken)} a token in ${tensors} tensors of ${types.join(", ")}; ${limit}${full}`]);
  }
  if (facts.quantizationOperators > 0) rows.push(["quantized", `${facts.quantizationOperators} quantization operators`]);
  c.print.out(table(rows));
  if (c.options.nodes) c.print.out(table(nodeList.map((n) => [n.op, n.name, n.outputs.join(", ")])));
  return 0;
}
