import { scaleLinear, scaleLog } from "d3-scale";
import { area, curveStepAfter, line } from "d3-shape";
import { type Html, html, raw, short } from "./text.ts";

/** Charts as SVG text: drawn once, so the page carries no library. Colours are the page's custom properties. */

const WIDTH = 720;
interface Margin {
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
  readonly left: number;
}

function frame(height: number, label: string, body: Html): Html {
  return html`<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${label}" preserveAspectRatio="xMidYMid meet">${body}</svg>`;
}

/** Value with interval, one row each, on one axis. */
export function intervals(
  rows: readonly { readonly label: string; readonly value: number; readonly low: number; readonly high: number; readonly text: string }[],
  label: string,
): Html {
  const m: Margin = { top: 8, right: 20, bottom: 28, left: 110 };
  const step = 34;
  const height = m.top + rows.length * step + m.bottom;
  const finite = rows.flatMap((r) => [r.value, r.low, r.high]).filter(Number.isFinite);
  const [lo, hi] = spread(Math.min(...finite), Math.max(...finite));
  const x = scaleLinear([lo, hi], [m.left, WIDTH - m.right]).nice();
  const at = (v: number) => Math.max(m.left, Math.min(WIDTH - m.right, x(v)));
  const marks = rows.map((r, i) => {
    const y = m.top + i * step + step / 2;
    return html`<g><title>${r.label}: ${r.text}</title><text x="${m.left - 10}" y="${y + 4}" class="end">${r.label}</text><line class="whisker" x1="${at(r.low)}" x2="${at(r.high)}" y1="${y}" y2="${y}"/><circle class="dot s${i}" cx="${at(r.value)}" cy="${y}" r="5"/></g>`;
  });
  return frame(height, label, html`${axisX(x, height - m.bottom, m)}${marks}`);
}

export interface LayerPoint {
  readonly name: string;
  readonly value: number;
  readonly text: string;
  readonly muted: boolean;
}
/** One point a layer in graph order. */
export function layers(points: readonly LayerPoint[], label: string): Html {
  const m: Margin = { top: 12, right: 16, bottom: 30, left: 46 };
  const height = 260;
  const finite = points.map((p) => p.value).filter(Number.isFinite);
  const x = scaleLinear([0, Math.max(1, points.length - 1)], [m.left, WIDTH - m.right]);
  const y = scaleLinear(spread(Math.min(0, ...finite), Math.max(1, ...finite)), [height - m.bottom, m.top]).nice();
  const top = y.domain()[1]!;
  const at = (p: LayerPoint) => y(Math.max(y.domain()[0]!, Math.min(top, p.value)));
  const path = line<LayerPoint>()
    .x((_, i) => x(i))
    .y(at)(points as LayerPoint[]);
  const dots = points.map(
    (p, i) =>
      html`<circle class="${p.muted ? "dot muted" : "dot s1"}" cx="${x(i).toFixed(1)}" cy="${at(p).toFixed(1)}" r="3.5"><title>${p.name}: ${p.text}</title></circle>`,
  );
  return frame(
    height,
    label,
    html`${axisY(y, m)}<path class="line" d="${path ?? ""}"/>${dots}<text x="${(m.left + WIDTH) / 2}" y="${height - 8}" class="mid">layers in graph order</text>`,
  );
}

/** Bins of equal width over [from, from + width·n], with the chosen range. Counts are drawn on a log axis: tails are what matters. */
export function histogram(o: {
  readonly from: number;
  readonly width: number;
  readonly counts: readonly number[];
  readonly range?: { readonly min: number; readonly max: number };
  readonly label: string;
}): Html {
  const m: Margin = { top: 12, right: 16, bottom: 30, left: 46 };
  const height = 240;
  const end = o.from + o.width * o.counts.length;
  const [lo, hi] = spread(Math.min(o.from, o.range?.min ?? o.from), Math.max(end, o.range?.max ?? end));
  const x = scaleLinear([lo, hi], [m.left, WIDTH - m.right]);
  const y = scaleLog([0.5, Math.max(10, ...o.counts)], [height - m.bottom, m.top]);
  const points = [...o.counts, o.counts.at(-1) ?? 0];
  const d = area<number>()
    .curve(curveStepAfter)
    .x((_, i) => Math.round(x(o.from + i * o.width) * 10) / 10)
    .y0(height - m.bottom)
    .y1((c) => Math.round(y(Math.max(0.5, c)) * 10) / 10)(points);
  const box =
    o.range &&
    html`<rect class="range" x="${x(o.range.min).toFixed(1)}" width="${Math.max(0, x(o.range.max) - x(o.range.min)).toFixed(1)}" y="${m.top}" height="${height - m.top - m.bottom}"><title>chosen range ${short(o.range.min)} to ${short(o.range.max)}</title></rect>`;
  return frame(height, o.label, html`${box}<path class="area" d="${d ?? ""}"/>${axisX(x, height - m.bottom, m)}`);
}

/** Horizontal bars with a shared axis from zero; `low` and `high` as whiskers. */
export function bars(
  rows: readonly { readonly label: string; readonly value: number; readonly text: string; readonly low?: number; readonly high?: number }[],
  label: string,
): Html {
  const m: Margin = { top: 6, right: 140, bottom: 6, left: 110 };
  const step = 36;
  const height = m.top + rows.length * step + m.bottom;
  const x = scaleLinear([0, Math.max(...rows.map((r) => r.high ?? r.value), Number.MIN_VALUE)], [m.left, WIDTH - m.right]);
  return frame(
    height,
    label,
    html`${rows.map((r, i) => {
      const y = m.top + i * step;
      const whisker =
        r.low !== undefined &&
        r.high !== undefined &&
        html`<line class="whisker" x1="${x(r.low)}" x2="${x(r.high)}" y1="${y + step / 2}" y2="${y + step / 2}"/>`;
      return html`<g><text x="${m.left - 10}" y="${y + step / 2 + 4}" class="end">${r.label}</text><rect class="bar s${i}" x="${m.left}" y="${y + 6}" width="${Math.max(1, x(r.value) - m.left)}" height="${step - 12}"/>${whisker}<text x="${x(r.high ?? r.value) + 8}" y="${y + step / 2 + 4}">${r.text}</text></g>`;
    })}`,
  );
}

/** Rows × columns; darker is worse. Empty cells were not tried. */
export function heatmap(o: {
  readonly columns: readonly string[];
  readonly rows: readonly { readonly name: string; readonly values: readonly (number | null)[] }[];
  readonly unit: string;
}): Html {
  const all = o.rows.flatMap((r) => r.values).filter((v): v is number => v !== null && v > 0 && Number.isFinite(v));
  const shade = scaleLog([Math.min(...all, 1e-9), Math.max(...all, 1e-8)], [0.04, 1]).clamp(true);
  return html`<div class="scroll" tabindex="0" role="region" aria-label="loss of each layer in each scheme"><table class="heat"><thead><tr><th>layer</th>${o.columns.map((c) => html`<th>${c}</th>`)}</tr></thead><tbody>${o.rows.map(
    (r) =>
      html`<tr><th>${r.name}</th>${r.values.map((v) =>
        v === null
          ? raw("<td></td>")
          : html`<td style="--a:${(v > 0 ? shade(v) : 0).toFixed(3)}" title="${r.name}: ${v} ${o.unit}">${short(v)}</td>`,
      )}</tr>`,
  )}</tbody></table></div>`;
}

/** Loss against bytes; losses on a logarithmic axis where they span more than a decade. `joined`: by a line, in their order. */
export function scatter(
  points: readonly { readonly x: number; readonly y: number; readonly text: string; readonly chosen: boolean; readonly joined?: boolean }[],
  label: string,
  names: { readonly x: string; readonly y: string },
): Html {
  const m: Margin = { top: 12, right: 16, bottom: 42, left: 60 };
  const height = 280;
  const x = scaleLinear(spread(Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))), [m.left, WIDTH - m.right]).nice();
  const losses = points.map((p) => p.y);
  const [least, most] = [Math.min(...losses), Math.max(...losses)];
  const down: [number, number] = [height - m.bottom, m.top];
  const wide = least > 0 && most / least > 10;
  const y = wide ? scaleLog([least / 1.3, most * 1.3], down) : scaleLinear(spread(0, most), down).nice();
  const joined = points.filter((p) => p.joined);
  const path = line<(typeof points)[number]>(
    (p) => x(p.x),
    (p) => y(p.y),
  )(joined);
  const grid = wide
    ? y
        .ticks(4)
        .map(
          (t) =>
            html`<line class="grid" x1="${m.left}" x2="${WIDTH - m.right}" y1="${y(t)}" y2="${y(t)}"/><text x="${m.left - 8}" y="${y(t) + 4}" class="end tick">${short(t)}</text>`,
        )
    : axisY(y as Linear, m);
  const dots = points.map(
    (p) =>
      html`<circle class="dot ${p.chosen ? "s1" : "s0"}" r="${p.chosen ? 7 : 4}" cx="${x(p.x)}" cy="${y(p.y)}"><title>${p.text}</title></circle>`,
  );
  return frame(
    height,
    label,
    html`${axisX(x, height - m.bottom, m)}${grid}${joined.length > 1 && html`<path class="line" d="${path ?? ""}"/>`}${dots}<text x="${(m.left + WIDTH) / 2}" y="${height - 6}" class="mid">${names.x}</text>`,
  );
}

type Linear = ReturnType<typeof scaleLinear<number, number>>;
function axisX(x: Linear, y: number, m: Margin): Html {
  return html`<line class="axis" x1="${m.left}" x2="${WIDTH - m.right}" y1="${y}" y2="${y}"/>${x.ticks(6).map((t) => html`<text x="${x(t)}" y="${y + 18}" class="mid tick">${x.tickFormat(6)(t)}</text>`)}`;
}
function axisY(y: Linear, m: Margin): Html {
  return html`${y.ticks(5).map((t) => html`<line class="grid" x1="${m.left}" x2="${WIDTH - m.right}" y1="${y(t)}" y2="${y(t)}"/><text x="${m.left - 8}" y="${y(t) + 4}" class="end tick">${y.tickFormat(5)(t)}</text>`)}`;
}
/** Never empty, with a margin. */
function spread(lo: number, hi: number): [number, number] {
  const pad = (hi - lo) * 0.05 || Math.abs(hi) * 0.1 || 1;
  return [lo === 0 ? 0 : lo - pad, hi + pad];
}
