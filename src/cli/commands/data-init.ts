import { loadModel } from "../../graph/onnx/index.ts";
import { writeAtomic } from "../../io/atomic.ts";
import { fileNameOf } from "../../io/path.ts";
import type { OUT } from "../../options.ts";
import { checkOutputs, stemOf } from "../../outputs.ts";
import type { IoInfo } from "../../runtime/types.ts";
import { inputsOf } from "../../source.ts";
import type { Context, ExitCode } from "../command.ts";

export async function run(c: Context<typeof OUT>): Promise<ExitCode> {
  const path = c.args[0]!;
  const inputs = inputsOf(loadModel(path));
  const text = setFile(stemOf(fileNameOf(path)), inputs);
  const { out } = c.options;
  if (out !== undefined) {
    checkOutputs([out], [path]);
    writeAtomic(out, text);
  }
  c.print.document({ ok: true, file: out, inputs, text });
  c.print.out(
    out === undefined
      ? text.trimEnd()
      : `${"wrote".padEnd(10)} ${out}   fill in "source" and the steps, then: qc data check ${out} ${path}`,
  );
  return 0;
}

/** A set file that parses as it is, with the guesses that names and shapes allow; comments say what to decide. */
export function setFile(name: string, inputs: readonly IoInfo[]): string {
  const lines = [
    `name: ${JSON.stringify(name)}`,
    "source: FILL-IN.npz                  # npz, npy, folder, glob, jsonl, csv, parquet, or a module",
    "inputs:",
  ];
  for (const i of inputs) lines.push(...inputLines(i));
  lines.push(
    "# labels: y                         # array, column or folder names",
    "# metric: top1                      # top1, top5, auc, map, f1, perplexity, psnr, sqnr, agreement",
    "split: { calibrate: 200, seed: 0 }  # a tenth of these selects; the rest is held out",
    "license: unknown                    # of the data",
  );
  return `${lines.join("\n")}\n`;
}

function inputLines(i: IoInfo): string[] {
  const shape = `# ${i.dtype}[${i.dims.join(", ")}]`;
  const key = `  ${JSON.stringify(i.name)}:`;
  if (i.dims.length === 0) return [`${key} { constant: 0 }  ${shape}: the same for every sample`];
  const image = imageLayout(i.dims);
  if (image !== undefined) {
    const { layout, h, w } = image;
    const size = typeof h === "number" && typeof w === "number" ? `{ resize: { width: ${w}, height: ${h} } }, ` : "";
    return [
      `${key}  ${shape}`,
      "    from: image                     # or the name of an array, which needs no image steps",
      `    steps: [ ${size}{ divide: 255 }, { layout: ${layout} } ]`,
    ];
  }
  return [`${key} { from: ${JSON.stringify(i.name)} }  ${shape}`];
}

/** Four axes with one of 1 or 3 channels where images have them. */
function imageLayout(dims: IoInfo["dims"]) {
  if (dims.length !== 4) return undefined;
  const channels = (d: number | string | undefined) => d === 1 || d === 3;
  if (channels(dims[1])) return { layout: "nchw", h: dims[2], w: dims[3] } as const;
  return channels(dims[3]) ? ({ layout: "nhwc", h: dims[1], w: dims[2] } as const) : undefined;
}
