import { scatter } from "./charts.ts";
import { STYLE } from "./style.ts";
import { html, raw, short } from "./text.ts";

export interface FrontierPlan {
  readonly bytes: number;
  readonly loss: number;
  readonly text: string;
}

/** A page beside `--pareto`'s JSON: loss against bytes, the frontier as a line, what it has to beat as larger dots. */
export function renderFrontier(o: {
  readonly title: string;
  readonly unit: string;
  readonly points: readonly FrontierPlan[];
  readonly others: readonly FrontierPlan[];
}): string {
  const dot = (p: FrontierPlan, joined: boolean) => ({
    x: p.bytes,
    y: p.loss,
    text: `${p.text}, ${short(p.loss)} ${o.unit}`,
    chosen: !joined,
    joined,
  });
  const row = (p: FrontierPlan) => html`<tr><td>${p.text}</td><td>${short(p.loss)}</td></tr>`;
  const page = html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${o.title}</title><link rel="icon" href="data:,"><style>${raw(STYLE)}</style></head>
<body><main><h1>${o.title}</h1>
${scatter([...o.points.map((p) => dot(p, true)), ...o.others.map((p) => dot(p, false))], "loss against bytes", { x: "bytes of weights", y: o.unit })}
<table><thead><tr><th>plan</th><th>${o.unit}</th></tr></thead><tbody>${o.points.map(row)}${o.others.map(row)}</tbody></table>
</main></body></html>
`;
  return page.text;
}
