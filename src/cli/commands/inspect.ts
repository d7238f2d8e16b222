import { loadModel } from "../../graph/onnx/index.ts";
import { inspect } from "../../inspect.ts";
import { fileNameOf } from "../../io/path.ts";
import type { FlagOption } from "../../options.ts";
import type { Context, ExitCode } from "../command.ts";
import { bytes, table } from "../print.ts";

export async function run(c: Context<{ readonly nodes: FlagOption }>): Promise<ExitCode> {
  const path = c.args[0]!;
  const { nodeList, ...facts } = inspect(loadModel(path));
  c.print.document({ ok: true, file: fileNameOf(path), ...facts, ...(c.options.nodes ? { nodeList } : {}) });
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
  if (facts.quantizationOperators > 0) rows.push(["quantized", `${facts.quantizationOperators} quantization operators`]);
  c.print.out(table(rows));
  if (c.options.nodes) c.print.out(table(nodeList.map((n) => [n.op, n.name, n.outputs.join(", ")])));
  return 0;
}
