import type { CompileEvent, StageFacts } from "../job.ts";
import type { LevelReport, MetricComparison, VerifyReport } from "../verify/index.ts";
import { bytes, duration, type Printer } from "./print.ts";

/** Prints what a run tells while it goes: one line a stage, diagnostics in two. */
export function eventPrinter(print: Printer): (e: CompileEvent) => void {
  return (e) => {
    switch (e.kind) {
      case "progress":
        return print.progress(e.stage, e.done, e.total);
      case "diagnostic":
        return print.diagnostic(e.diagnostic);
      case "stage": {
        const line = stageLine(e.facts, e.seconds);
        if (line !== undefined) print.talk(line);
        return;
      }
      default:
        return e satisfies never;
    }
  };
}

const row = (stage: string, head: string, rest: string, seconds?: number) =>
  `${stage.padEnd(10)} ${head.padEnd(20)} ${rest}${seconds !== undefined && seconds >= 0.5 ? `   ${duration(seconds)}` : ""}`.trimEnd();

function stageLine(f: StageFacts, seconds: number): string | undefined {
  switch (f.stage) {
    case "read":
      return row("read", `${f.nodes} nodes`, bytes(f.bytes));
    case "data":
      return row("data", f.name, `${f.calibrate} calibrate · ${f.select} select · ${f.heldOut} held out`, seconds);
    case "prepare":
      return row("prepare", `${f.before} → ${f.after} nodes`, f.rules.map((r) => `${r.rule} ${r.count}`).join(" · "), seconds);
    case "prune":
      return row(
        "prune",
        `${((100 * f.after) / f.before).toFixed(0)} % of the products`,
        f.groups.map((g) => `${g.of[0]!} ${g.channels} → ${g.kept}`).join(" · "),
        seconds,
      );
    case "calibrate":
      return row("calibrate", `${f.samples} samples`, `${f.values} values`, seconds);
    case "plan":
      return row(
        "plan",
        `${f.quantized} of ${f.products} products`,
        [...f.schemes, ...(f.calibrator === undefined ? [] : [f.calibrator]), `${f.floats} nodes stay float`].join(" · "),
        seconds,
      );
    case "improve":
      return f.steps.length === 0
        ? undefined
        : row(
            "improve",
            `${f.steps.filter((s) => s.kept).length} of ${f.steps.length} steps kept`,
            f.steps.map((s) => `${s.step} ${signed(s.after - s.before)} dB${s.kept ? "" : " (rolled back)"}`).join(" · "),
            seconds,
          );
    case "propose":
    case "lower":
    case "verify":
    case "write":
      return undefined;
    default:
      return f satisfies never;
  }
}

/** The result in a few lines: what it cost, how sure that is, what it won. */
export function reportLines(r: VerifyReport): string[] {
  const out: string[] = [];
  const last = r.levels.at(-1);
  if (last === undefined) out.push(row("verify", "not compared", r.why.join("; ")));
  else {
    const held = `${r.samples.n} held-out samples${r.samples.n < r.samples.of ? ` of ${r.samples.of}` : ""}`;
    if (last.metric !== undefined) out.push(row("verify", metricHead(last.metric), `${metricTail(last.metric)} (${held})`));
    out.push(...noiseLines(r.levels, last.metric === undefined ? held : undefined));
    const worst = [...r.layers.rows].filter((l) => l.noiseAdded > 0).sort((a, b) => b.noiseAdded - a.noiseAdded);
    if (worst.length > 0)
      out.push(
        row(
          "",
          "most noise from",
          worst
            .slice(0, 3)
            .map((l) => `${l.node} (${l.op}, ${db(l.sqnrDb)})`)
            .join(" · "),
        ),
      );
    if (r.verdict === "suspect") out.push(row("", "suspect", r.why.join("; ")));
  }
  if (r.latency !== undefined) {
    const l = r.latency;
    out.push(
      row(
        "latency",
        `${l.float.medianMs.toFixed(2)} → ${l.quantized.medianMs.toFixed(2)} ms`,
        `×${l.ratio.toFixed(2)}${l.interval === undefined ? "" : `, 95 % CI ${l.interval[0].toFixed(2)}…${l.interval[1].toFixed(2)}`} (onnxruntime level ${l.level}, ${l.threads} thread, ${l.rounds} interleaved rounds)`,
      ),
    );
  }
  if (r.time !== undefined) {
    const { floatMs, predictedMs, source } = r.time;
    out.push(
      row(
        r.latency === undefined ? "latency" : "",
        `${floatMs.toFixed(2)} → ${predictedMs.toFixed(2)} ms`,
        `×${(predictedMs / floatMs).toFixed(2)} by the cost table (${source})`,
      ),
    );
  }
  return out;
}

function noiseLines(levels: readonly LevelReport[], held: string | undefined): string[] {
  const [reference, deployed] = [levels[0]!, levels.at(-1)!];
  return deployed.outputs.slice(0, 4).map((o, i) => {
    const exact = reference.outputs.find((x) => x.name === o.name)!;
    const agree = o.agreement === undefined ? "" : ` · same argmax ${(100 * o.agreement.rate).toFixed(1)} % of ${o.agreement.rows}`;
    const tail = `${o.name}: ${db(o.sqnrDb)} deployed, ${db(exact.sqnrDb)} exact${exact.n < o.n ? ` on ${exact.n}` : ""} · worst ${db(o.worst.sqnrDb)} (${o.worst.sample}) · cosine ${o.cosine.toFixed(5)}${agree}`;
    return row(
      i === 0 && held !== undefined ? "verify" : "",
      i === 0 ? "SQNR" : "",
      i === 0 && held !== undefined ? `${tail} (${held})` : tail,
    );
  });
}

function metricHead(m: MetricComparison): string {
  const digits = m.unit === "%" ? 1 : 3;
  const u = m.unit === "" ? "" : ` ${m.unit}`;
  return `${m.name} ${m.float.value.toFixed(digits)} → ${m.quantized.value.toFixed(digits)}${u}`;
}
function metricTail(m: MetricComparison): string {
  const digits = m.unit === "%" ? 2 : 3;
  const d = m.difference;
  const interval = Number.isFinite(d.se) ? `, 95 % CI ${signed(d.interval[0], digits)}…${signed(d.interval[1], digits)}` : "";
  const flips = m.flips === undefined ? "" : `, ${m.flips.lost} lost ${m.flips.won} won, p ${m.flips.p.toFixed(2)}`;
  return `${signed(d.value, digits)}${interval}${flips}`;
}

export const signed = (x: number, digits = 1) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;
export const db = (x: number) => (x === Infinity ? "∞ dB" : x === -Infinity ? "−∞ dB" : `${x.toFixed(1)} dB`);
