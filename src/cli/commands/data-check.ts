import { openData } from "../../data/index.ts";
import { loadModel } from "../../graph/onnx/index.ts";
import type { Tensor } from "../../runtime/types.ts";
import { inputsOf } from "../../source.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

interface Seen {
  min: number;
  max: number;
  sum: number;
  count: number;
  notFinite: number;
  shapes: Set<string>;
}

/** Loads every sample once, so that what would fail hours into a calibration fails here. */
export async function run(c: Context<Record<never, never>>): Promise<ExitCode> {
  const inputs = inputsOf(loadModel(c.args[1]!));
  const data = await openData(c.args[0]!, inputs, { seed: 0, report: c.print.diagnostic });
  const seen = new Map<string, Seen>(
    inputs.map((i) => [i.name, { min: Infinity, max: -Infinity, sum: 0, count: 0, notFinite: 0, shapes: new Set() }]),
  );
  for (let i = 0; i < data.size; i++) {
    c.signal.throwIfAborted();
    const { feeds } = await data.sample(i);
    for (const [name, t] of Object.entries(feeds)) note(seen.get(name), t);
    c.print.progress("check", i + 1, data.size);
  }
  c.print.end();
  const classes = new Map<number, number>();
  for (const k of data.classes ?? []) if (k !== undefined) classes.set(k, (classes.get(k) ?? 0) + 1);
  const roles = { calibrate: data.roles.calibrate.length, select: data.roles.select.length, heldOut: data.roles.heldOut.length };
  const rows = [...seen].map(([name, s]) => ({
    name,
    shapes: [...s.shapes].sort(),
    min: s.min,
    max: s.max,
    mean: s.count === 0 ? 0 : s.sum / s.count,
    notFinite: s.notFinite,
  }));
  c.print.document({
    ok: true,
    set: data.name,
    size: data.size,
    sha256: data.sha256,
    roles,
    metric: data.metric?.name,
    classes: Object.fromEntries(classes),
    inputs: rows,
  });
  c.print.out(
    table([
      ["set", `${data.name}, ${data.size} samples`],
      ["roles", `${roles.calibrate} calibrate · ${roles.select} select · ${roles.heldOut} held out`],
      ["metric", data.metric?.name ?? "none: outputs are compared"],
      ...(classes.size > 0
        ? [
            [
              "classes",
              [...classes]
                .sort((a, b) => a[0] - b[0])
                .slice(0, 20)
                .map(([k, n]) => `${k}: ${n}`)
                .join(" · "),
            ],
          ]
        : []),
      ...rows.map((r) => [
        r.name,
        `[${r.shapes.slice(0, 3).join("] [")}]${r.shapes.length > 3 ? ` and ${r.shapes.length - 3} more shapes` : ""}  ${r.min.toPrecision(4)} to ${r.max.toPrecision(4)}, mean ${r.mean.toPrecision(4)}${r.notFinite > 0 ? `, ${r.notFinite} not finite` : ""}`,
      ]),
    ]),
  );
  return 0;
}

function note(s: Seen | undefined, t: Tensor): void {
  if (s === undefined) return;
  s.shapes.add(t.dims.join(", "));
  if (Array.isArray(t.data) || t.dtype === "float16") return;
  for (let i = 0; i < t.data.length; i++) {
    const x = Number(t.data[i]);
    if (!Number.isFinite(x)) {
      s.notFinite++;
      continue;
    }
    if (x < s.min) s.min = x;
    if (x > s.max) s.max = x;
    s.sum += x;
    s.count++;
  }
}
