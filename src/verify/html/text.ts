/** HTML that is safe to put into a page. Only `html` and `raw` make it; everything else is escaped. */
export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}
type Part = Html | string | number | undefined | false | readonly Part[];

export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.reduce((s, t, i) => s + textOf(parts[i - 1]) + t));
}
function textOf(p: Part): string {
  if (p === undefined || p === false) return "";
  if (p instanceof Html) return p.text;
  if (typeof p === "object") return p.map(textOf).join("");
  return escaped(String(p));
}
export const raw = (text: string) => new Html(text);
export function escaped(s: string): string {
  return s.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** Numbers as the page shows them; infinite ones come from JSON as strings as well. */
export function fixed(x: number, digits: number): string {
  if (x === Infinity) return "∞";
  if (x === -Infinity) return "−∞";
  return Number.isNaN(x) ? "none" : x.toFixed(digits).replace("-", "−");
}
export const db = (x: number) => `${fixed(x, 1)} dB`;
export function size(n: number): string {
  if (n < 1000) return `${n} B`;
  if (n < 1e6) return `${(n / 1e3).toFixed(1)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(2)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}
export const signed = (x: number, digits: number) => `${x < 0 ? "" : "+"}${fixed(x, digits)}`;
export function short(x: number): string {
  if (x === 0 || !Number.isFinite(x)) return fixed(x, 0);
  return x.toPrecision(3).replace("-", "−");
}
