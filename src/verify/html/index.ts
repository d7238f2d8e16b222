import type { Stats, ValueStats } from "../../calibrate/types.ts";
import type { Plan, Site } from "../../plan/types.ts";
import type { MetricComparison, VerifyReport } from "../types.ts";
import { bars, heatmap, histogram, intervals, layers, scatter } from "./charts.ts";
import { SCRIPT, STYLE } from "./style.ts";
import { db, fixed, type Html, html, raw, short, signed, size } from "./text.ts";

export interface ReportPage {
  readonly title: string;
  readonly report: VerifyReport;
  readonly plan?: Plan | undefined;
  readonly stats?: Stats | undefined;
  /** Sample name to a data URL, for samples that are images. */
  readonly pictures?: ReadonlyMap<string, string>;
}

/** The page beside `report.json`: one file, no network, and no figure that is not in the JSON, the plan or the statistics. */
export function renderReport(p: ReportPage): string {
  const { report: r } = p;
  const sections: readonly [string, string, Html | undefined][] = [
    ["accuracy", "Accuracy", accuracy(p)],
    ["size", "Size and latency", sizeAndLatency(r)],
    ["layers", "Error along the graph", layerSection(r)],
    ["ranges", "Tensors and their ranges", rangeSection(p)],
    ["sensitivity", "Sensitivity", sensitivity(r)],
    ["frontier", "Frontier", frontier(r)],
    ["plan", "The plan", planSection(p.plan)],
    ["float", "What stayed float", floatSection(p)],
    ["run", "How it was made", runSection(r)],
  ];
  const there = sections.filter((s): s is [string, string, Html] => s[2] !== undefined);
  const page = html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>${p.title}</title><link rel="icon" href="data:,"><style>${raw(STYLE)}</style></head>
<body><main>
<h1>${p.title}</h1>
<p><span class="verdict ${r.verdict}">${VERDICTS[r.verdict]}</span></p>
${r.why.map((w) => html`<p>${w}</p>`)}
${cards(r)}
<nav aria-label="Sections">${there.map(([id, name]) => html`<a href="#${id}">${name}</a>`)}</nav>
${there.map(([id, name, body]) => html`<section id="${id}"><h2>${name}</h2>${body}</section>\n`)}
</main><script>${raw(SCRIPT)}</script></body></html>
`;
  return page.text;
}

const VERDICTS: Readonly<Record<VerifyReport["verdict"], string>> = { ok: "ok", suspect: "suspect", "not-verified": "not verified" };

function cards(r: VerifyReport): Html {
  const m = r.levels.at(-1)?.metric;
  const worst = worstOutput(r);
  const card = (head: string, value: string, foot: string) =>
    html`<div class="card"><span class="soft">${head}</span><b>${value}</b><small class="soft">${foot}</small></div>`;
  return html`<div class="cards">
${m && card(m.name, `${fixed(m.quantized.value, digitsOf(m))}${unitOf(m)}`, `float ${fixed(m.float.value, digitsOf(m))}${unitOf(m)}, ${m.n} samples`)}
${worst && card("signal to noise", db(worst.sqnrDb), `output ${worst.name}, ${worst.n} samples`)}
${card("size", size(r.bytes.after), `${fixed((100 * r.bytes.after) / r.bytes.before, 1)} % of ${size(r.bytes.before)}`)}
${r.latency && card("latency", `×${fixed(r.latency.ratio, 2)}`, `${fixed(r.latency.float.medianMs, 2)} → ${fixed(r.latency.quantized.medianMs, 2)} ms`)}
${card("products in 8 bits or fewer", `${r.products.both + r.products.weightOnly} of ${r.products.products}`, `${r.products.both} on both sides`)}
</div>`;
}
const worstOutput = (r: VerifyReport) => {
  const all = r.levels.at(-1)?.outputs ?? [];
  return all.length === 0 ? undefined : all.reduce((a, b) => (b.sqnrDb < a.sqnrDb ? b : a));
};
const digitsOf = (m: MetricComparison) => (m.unit === "%" ? 2 : 3);
const unitOf = (m: MetricComparison) => (m.unit === "" ? "" : ` ${m.unit}`);

function accuracy({ report: r, pictures }: ReportPage): Html | undefined {
  if (r.levels.length === 0) return undefined;
  const m = r.levels.at(-1)!.metric;
  return html`${m && metricPart(m, pictures)}
<div class="scroll" tabindex="0" role="region" aria-label="errors of outputs"><table><caption>Outputs against the float model, ${r.samples.n} of ${r.samples.of} held-out samples</caption><thead><tr><th>output</th><th>level</th><th class="n">signal to noise</th><th class="n">middle sample</th><th class="n">worst sample</th><th class="n">cosine</th><th class="n">largest error</th><th class="n">same class</th></tr></thead><tbody>
${r.levels.flatMap((l) =>
  l.outputs.map(
    (o) =>
      html`<tr><td class="w">${o.name}</td><td>${l.level}</td><td class="n">${db(o.sqnrDb)}</td><td class="n">${db(o.medianSqnrDb)}</td><td class="n" title="sample ${o.worst.sample}">${db(o.worst.sqnrDb)}</td><td class="n">${fixed(o.cosine, 5)}</td><td class="n">${short(o.maxAbsError)}</td><td class="n">${o.agreement ? `${fixed(100 * o.agreement.rate, 2)} %` : ""}</td></tr>`,
  ),
)}</tbody></table></div>`;
}

function metricPart(m: MetricComparison, pictures: ReportPage["pictures"]): Html {
  const d = digitsOf(m);
  const row = (label: string, e: MetricComparison["float"]) => {
    const [low, high] = e.interval ?? [e.value, e.value];
    return { label, value: e.value, low, high, text: `${fixed(e.value, d)}${unitOf(m)} (${fixed(low, d)} to ${fixed(high, d)})` };
  };
  const rows = [row("float", m.float), row("quantized", m.quantized)];
  const flips = m.flips;
  const changed = flips?.samples;
  return html`<p>${m.name} over ${m.n} held-out samples: ${rows[0]!.text} → ${rows[1]!.text}; difference <b>${signed(m.difference.value, d)}${unitOf(m)}</b>, 95 % interval ${signed(m.difference.interval[0], d)} to ${signed(m.difference.interval[1], d)} (${m.difference.from}).${flips && html` ${flips.lost} samples became wrong and ${flips.won} right (McNemar p ${fixed(flips.p, 3)}).`}</p>
${intervals(rows, `${m.name} of both models with 95 % intervals`)}
${changed && flipList("Became wrong", changed.lost, flips.lost, pictures)}${changed && flipList("Became right", changed.won, flips.won, pictures)}`;
}

function flipList(name: string, ids: readonly string[], total: number, pictures: ReportPage["pictures"]): Html | undefined {
  if (ids.length === 0) return undefined;
  return html`<h3>${name} (${ids.length === total ? total : `${ids.length} of ${total}`})</h3><ul class="flips">${ids.map((id) => {
    const src = pictures?.get(id);
    return html`<li>${src && html`<img src="${src}" alt="sample ${id}" loading="lazy">`}${id}</li>`;
  })}</ul>`;
}

function sizeAndLatency(r: VerifyReport): Html {
  const l = r.latency;
  return html`${bars(
    [
      { label: "float", value: r.bytes.before, text: size(r.bytes.before) },
      { label: "quantized", value: r.bytes.after, text: size(r.bytes.after) },
    ],
    "bytes of both files",
  )}<p class="soft">Bytes of the files with external data.${r.bitsPerWeight !== undefined && html` ${fixed(r.bitsPerWeight, 2)} bits per weight that the plan touches, scales and zero points included.`}</p>
${
  l &&
  html`${bars(
    [
      { label: "float", value: l.float.medianMs, low: l.float.p10Ms, high: l.float.p90Ms, text: `${fixed(l.float.medianMs, 3)} ms` },
      {
        label: "quantized",
        value: l.quantized.medianMs,
        low: l.quantized.p10Ms,
        high: l.quantized.p90Ms,
        text: `${fixed(l.quantized.medianMs, 3)} ms`,
      },
    ],
    "latency of both models",
  )}<p class="soft">Median of ${l.rounds} interleaved rounds, whiskers from the 10th to the 90th percentile; ratio ${fixed(l.ratio, 3)}${l.interval && html` (95 % interval ${fixed(l.interval[0], 3)} to ${fixed(l.interval[1], 3)})`}; onnxruntime level ${l.level}, ${l.threads} thread, ${r.machine.cpu}.</p>`
}`;
}

function layerSection(r: VerifyReport): Html | undefined {
  const { rows, n } = r.layers;
  if (rows.length === 0) return undefined;
  return html`<p>Signal to noise at the output of each product, errors of earlier layers included, over ${n} samples. Hollow points stayed float.</p>
${layers(
  rows.map((x) => ({
    name: `${x.node} (${x.op})`,
    value: x.sqnrDb,
    text: `${db(x.sqnrDb)}, added ${short(x.noiseAdded)}`,
    muted: x.state === "float",
  })),
  "signal to noise per layer",
)}
<details><summary>As a table</summary><div class="scroll" tabindex="0" role="region" aria-label="layers as a table"><table><thead><tr><th>node</th><th>op</th><th class="n">signal to noise</th><th class="n">noise added</th><th>state</th></tr></thead><tbody>${rows.map(
    (x) =>
      html`<tr><td class="w">${x.node}</td><td>${x.op}</td><td class="n">${db(x.sqnrDb)}</td><td class="n">${short(x.noiseAdded)}</td><td>${x.state}</td></tr>`,
  )}</tbody></table></div></details>`;
}

/** Bins that are drawn, and tensors: with these the page of a large network stays far below 3 MB. */
const BINS = 96;
const MOST_TENSORS = 400;

function rangeSection({ plan, stats }: ReportPage): Html | undefined {
  if (plan === undefined || stats === undefined) return undefined;
  const seen = new Set<string>();
  const all = plan.sites.flatMap((s) => {
    const v = s.kind === "static" ? stats.values.get(s.value) : undefined;
    if (s.kind !== "static" || v?.hist === undefined || seen.has(s.value)) return [];
    seen.add(s.value);
    return [{ site: s, stats: v }];
  });
  if (all.length === 0) return undefined;
  const shown = all.slice(0, MOST_TENSORS);
  return html`<p>Values seen in ${stats.samples} calibration samples (counts on a logarithmic axis, exact zeros left out), and the range that was chosen (shaded).${all.length > shown.length && html` The first ${shown.length} of ${all.length} tensors.`}</p>
<label for="tensor">Tensor</label><select id="tensor">${shown.map(({ site }) => html`<option>${site.value}</option>`)}</select>
${shown.map(({ site, stats: v }) => rangeFigure(site, v))}`;
}

function rangeFigure(site: Site & { readonly kind: "static" }, v: ValueStats): Html {
  const h = v.hist!;
  const width = 2 ** h.exp;
  const each = Math.max(1, Math.ceil(h.counts.length / BINS));
  const counts = Array.from({ length: Math.ceil(h.counts.length / each) }, (_, i) =>
    h.counts.subarray(i * each, (i + 1) * each).reduce((a, b) => a + b, 0),
  );
  const range = site.range;
  return html`<figure data-tensor="${site.value}" style="margin:0">${histogram({ from: h.first * width, width: each * width, counts, label: `histogram of ${site.value}`, ...(range === undefined ? {} : { range }) })}<figcaption class="soft"><small>${site.value}: seen ${short(v.min)} to ${short(v.max)}${range && html`, chosen ${short(range.min)} to ${short(range.max)}`}; ${site.scheme.dtype}, ${v.count} elements, ${v.zeros} zeros</small></figcaption></figure>`;
}

function sensitivity({ sensitivity: s }: VerifyReport): Html | undefined {
  if (s === undefined || s.rows.length === 0) return undefined;
  return html`<p>Loss when only this layer takes this scheme (${s.unit}). Darker is worse.</p>${heatmap({ columns: s.schemes, rows: s.rows.map((x) => ({ name: x.node, values: x.losses })), unit: s.unit })}`;
}
function frontier({ frontier: f }: VerifyReport): Html | undefined {
  if (f === undefined || f.points.length === 0) return undefined;
  const text = (p: { bytes: number; loss: number }) => `${size(p.bytes)}, ${short(p.loss)} ${f.unit}`;
  return html`${scatter(
    f.points.map((p) => ({ x: p.bytes, y: p.loss, text: text(p), chosen: p.chosen === true })),
    "loss against bytes",
    { x: "bytes of weights", y: f.unit },
  )}<p class="soft">${f.points.length} plans; loss in ${f.unit}. The large point was taken.</p>`;
}

function planSection(plan: Plan | undefined): Html | undefined {
  if (plan === undefined) return undefined;
  const where = (s: Site) => (s.consumers === "all" ? "all" : s.consumers.map((c) => `${c.node}:${c.input}`).join(" "));
  const scale = (s: Site) => {
    if (!("scale" in s)) return "";
    if ("tensor" in s.scale) return "in plan.tensors";
    return s.scale.length === 1
      ? short(s.scale[0]!)
      : `${s.scale.length} scales, ${short(Math.min(...s.scale))} to ${short(Math.max(...s.scale))}`;
  };
  return html`<label for="plan-filter">Search (<span id="plan-table-n">${plan.sites.length}</span>)</label><input id="plan-filter" type="search" data-filter="plan-table" placeholder="a node, a type, a reason">
<div class="scroll" tabindex="0" role="region" aria-label="the plan"><table id="plan-table"><thead><tr><th>value</th><th>kind</th><th>scheme</th><th>scale</th><th>read by</th><th>because</th></tr></thead><tbody>${plan.sites.map(
    (s) =>
      html`<tr><td class="w">${s.value}</td><td>${s.kind}</td><td>${s.scheme.dtype}/${s.scheme.granularity.kind}</td><td>${scale(s)}</td><td class="w">${where(s)}</td><td class="w">${s.because}</td></tr>`,
  )}</tbody></table></div>`;
}

function floatSection({ plan, report }: ReportPage): Html | undefined {
  const codes = Object.entries(report.skips);
  if (codes.length === 0) return undefined;
  const summary = html`<p>${codes.map(([code, n], i) => html`${i > 0 ? " · " : ""}<code>${code}</code> ${n}`)}</p>`;
  if (plan === undefined) return summary;
  return html`${summary}<label for="float-filter">Search (<span id="float-table-n">${plan.skips.length}</span>)</label><input id="float-filter" type="search" data-filter="float-table" placeholder="a node, an operator, a reason">
<div class="scroll" tabindex="0" role="region" aria-label="nodes that stayed float"><table id="float-table"><thead><tr><th>node</th><th>op</th><th>code</th><th>why</th></tr></thead><tbody>${plan.skips.map(
    (s) => html`<tr><td class="w">${s.node}</td><td>${s.op}</td><td>${s.code}</td><td class="w">${s.detail}</td></tr>`,
  )}</tbody></table></div>`;
}

function runSection(r: VerifyReport): Html {
  const rows: readonly [string, string][] = [
    ["tool", r.tool],
    ["target, recipe", `${r.target}, ${r.recipe}`],
    ...(r.calibrator === undefined ? [] : [["calibrator", r.calibrator] as [string, string]]),
    ["seed", String(r.seed)],
    ["model", `structure ${r.model.structure.slice(0, 12)}, weights ${r.model.weights.slice(0, 12)}`],
    ...(r.data === undefined
      ? []
      : [
          [
            "data",
            `${r.data.name} ${r.data.sha256.slice(0, 12)}: ${r.data.calibrate} calibrate, ${r.data.select} select, ${r.data.heldOut} held out`,
          ] as [string, string],
        ]),
    ["time", r.stages.map((s) => `${s.stage} ${fixed(s.seconds, 1)} s`).join(" · ")],
    [
      "machine",
      `${r.machine.cpu}, ${r.machine.cores} cores, ${r.machine.platform} ${r.machine.arch}, Node ${r.machine.node}, onnxruntime ${r.machine.onnxruntime}`,
    ],
  ];
  return html`<table><tbody>${rows.map(([k, v]) => html`<tr><th>${k}</th><td class="w">${v}</td></tr>`)}</tbody></table>
${r.steps.length > 0 && html`<h3>Steps</h3><div class="scroll" tabindex="0" role="region" aria-label="steps"><table><thead><tr><th>step</th><th class="n">before</th><th class="n">after</th><th>kept</th><th>detail</th></tr></thead><tbody>${r.steps.map((s) => html`<tr><td>${s.step}</td><td class="n">${fixed(s.before, 2)} ${s.unit}</td><td class="n">${fixed(s.after, 2)} ${s.unit}</td><td>${s.kept ? "yes" : "rolled back"}</td><td class="w">${s.detail}</td></tr>`)}</tbody></table></div>`}
${r.diagnostics.map((d) => html`<p><b class="${d.severity}">${d.severity}</b> ${d.text}<br><span class="soft">${d.note}</span> <code>${d.code}</code></p>`)}`;
}
