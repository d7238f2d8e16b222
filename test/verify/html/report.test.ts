import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { beforeAll, expect, test } from "vitest";
import { renderReport } from "../../../src/verify/html/index.ts";
import { escaped, fixed, html, raw, short, size } from "../../../src/verify/html/text.ts";
import { printReportSchema } from "../../../src/verify/schema.ts";
import type { VerifyReport } from "../../../src/verify/types.ts";
import { freshFolder, qc, root } from "../../e2e/qc.ts";

const folder = freshFolder();
let page = "";
let report: VerifyReport;
beforeAll(async () => {
  const digits = join(root, "calibration-sets/digits");
  const out = join(folder, "d.onnx");
  const r = await qc(["quantize", join(digits, "model.onnx"), "--data", digits, "--effort", "fast", "--verify-samples", "1500", "-o", out]);
  expect(r.code, r.stderr).toBe(0);
  page = readFileSync(join(folder, "d.report.html"), "utf8");
  report = JSON.parse(readFileSync(join(folder, "d.report.json"), "utf8")) as VerifyReport;
});

test("text is escaped, and only `raw` is not", () => {
  expect(html`<b>${'<i a="1">'}</b>${raw("<hr>")}${[1, "&"]}${false}${undefined}`.text).toBe("<b>&#60;i a=&#34;1&#34;&#62;</b><hr>1&#38;");
  expect([fixed(-1.25, 1), fixed(-Infinity, 1), size(1234), size(12)]).toEqual(["−1.3", "−∞", "1.2 kB", "12 B"]);
});

test("one file below 3 MB that asks for nothing from outside, the verdict first", () => {
  expect(page.length).toBeLessThan(3e6);
  expect(page).not.toMatch(/(?:src|href)="(?!#|data:)/);
  expect(page).toContain("default-src 'none'");
  expect(page.indexOf('class="verdict ok"')).toBeLessThan(page.indexOf("<section"));
});

test("its figures are the report's", () => {
  const text = page.replace(/<[^>]+>/g, " ").replace(/\s+/g, " ");
  const last = report.levels.at(-1)!;
  const m = last.metric!;
  for (const want of [
    `${m.float.value.toFixed(2)} %`,
    `${m.quantized.value.toFixed(2)} %`,
    `${m.flips!.lost} samples became wrong and ${m.flips!.won} right`,
    `${last.outputs[0]!.sqnrDb.toFixed(1)} dB`,
    last.outputs[0]!.cosine.toFixed(5),
    size(report.bytes.before),
    size(report.bytes.after),
    `${report.latency!.quantized.medianMs.toFixed(3)} ms`,
    ...report.layers.rows.map((r) => `${r.node} (${r.op}): ${r.sqnrDb.toFixed(1)} dB`),
    ...Object.entries(report.skips).map(([code, n]) => `${code} ${n}`),
  ])
    expect(text).toContain(want);
});

test("no figure of its sections on accuracy, size and layers is from anywhere else", () => {
  const known = new Set<string>();
  const words: string[] = [];
  const walk = (v: unknown): void => {
    if (typeof v === "string") words.push(v);
    else if (typeof v === "number") {
      // Rates are shown as percent.
      for (const x of [v, 100 * v]) for (let d = 0; d <= 5; d++) known.add(fixed(x, d).replace("−", ""));
      known.add(short(v).replace("−", ""));
      for (const n of size(v).match(/[\d.]+/g) ?? []) known.add(n);
    } else if (typeof v === "object" && v !== null) {
      words.push(...Object.keys(v));
      for (const x of Object.values(v)) walk(x);
    }
  };
  walk(report);
  known.add(fixed((100 * report.bytes.after) / report.bytes.before, 1));
  let text = page
    .slice(page.indexOf("<body>"), page.indexOf('<section id="ranges">'))
    // Ticks of axes are scales, not figures; what is written about both (95 % intervals, percentiles) is prose.
    .replace(/<text[^>]*class="[^"]*tick"[^>]*>[^<]*<\/text>/g, "")
    .replace(/<ul class="flips">.*?<\/ul>/gs, "")
    .replace(/<[^>]+>/g, " ")
    .replace(/95 % interval|from the 10th to the 90th percentile|8 bits or fewer/g, " ");
  for (const w of words.sort((a, b) => b.length - a.length)) if (/\d/.test(w) && /[a-z]/i.test(w)) text = text.replaceAll(escaped(w), " ");
  const shown = text.match(/\d+(?:\.\d+)?(?:e[-+−]?\d+)?/g)!;
  expect(shown.length).toBeGreaterThan(25);
  expect(shown.filter((n) => !known.has(n))).toEqual([]);
});

test("report.json is what docs/report.schema.json says, and nothing else (npm run docs)", () => {
  const text = readFileSync(join(root, "docs/report.schema.json"), "utf8");
  expect(text).toBe(printReportSchema());
  const check = new Ajv2020({ strict: false, allErrors: true }).compile(JSON.parse(text) as object);
  expect(check(report) ? [] : check.errors).toEqual([]);
  const more = {
    sensitivity: { unit: "dB", schemes: ["w8"], rows: [{ node: "n", losses: [0.1, null, "Infinity"] }] },
    frontier: { unit: "dB", points: [{ bytes: 10, loss: 1, chosen: true }] },
  };
  expect(check({ ...report, ...more }) ? [] : check.errors).toEqual([]);
  expect(check({ ...report, surprise: 1 })).toBe(false);
  expect(check({ ...report, verdict: "fine" })).toBe(false);
});

test("every site of the plan is a row, every histogram has its range, changed digits are pictures", () => {
  const plan = JSON.parse(readFileSync(join(folder, "d.plan.json"), "utf8")) as { sites: { kind: string; value: string }[] };
  const rows = /<table id="plan-table">.*?<\/table>/s.exec(page)![0].match(/<tr>/g)!.length - 1;
  expect(rows).toBe(plan.sites.length);
  const values = new Set(plan.sites.filter((s) => s.kind === "static").map((s) => s.value));
  expect(page.match(/<figure data-tensor/g)).toHaveLength(values.size);
  expect(page.match(/class="range"/g)).toHaveLength(values.size);
  const flips = report.levels.at(-1)!.metric!.flips!;
  expect(page.match(/<img src="data:image\/jpeg;base64,/g) ?? []).toHaveLength(flips.lost + flips.won);
});

test("sensitivity and frontier appear when the report has them", () => {
  const more = renderReport({
    title: "t",
    report: {
      ...report,
      sensitivity: { unit: "dB", schemes: ["w8", "w4"], rows: [{ node: "conv<1>", losses: [0.1, null] }] },
      frontier: {
        unit: "dB",
        points: [
          { bytes: 10, loss: 1 },
          { bytes: 20, loss: 0.5, chosen: true },
        ],
      },
    },
  });
  expect(more).toContain('<section id="sensitivity">');
  expect(more).toContain("conv&#60;1&#62;");
  expect(more).toContain('<section id="frontier">');
  expect(page).not.toContain('<section id="frontier">');
});

/** Where a browser is installed; its driver comes with the project and brings none. */
const chromium = [process.env["QC_CHROMIUM"], "/usr/bin/chromium", "/usr/bin/google-chrome"].find((p) => p !== undefined && existsSync(p));
const driver = process.env["QC_PLAYWRIGHT"] ?? join(root, "node_modules/playwright-core/index.mjs");
test.skipIf(chromium === undefined || !existsSync(driver))(
  "in Chromium: no console message, no request, no sideways scrolling on a phone, light and dark differ, the filter filters (skipped without a browser: QC_CHROMIUM, /usr/bin/chromium or /usr/bin/google-chrome)",
  async () => {
    const { chromium: browserType } = (await import(driver)) as typeof import("./browser.ts");
    const browser = await browserType.launch({ executablePath: chromium!, args: ["--no-sandbox"] });
    try {
      const shades = new Set<string>();
      for (const colorScheme of ["light", "dark"] as const) {
        const context = await browser.newContext({ colorScheme, viewport: { width: 390, height: 844 } });
        const tab = await context.newPage();
        const said: string[] = [];
        tab.on("console", (m) => said.push(m.text()));
        tab.on("pageerror", (e) => said.push(String(e)));
        tab.on("request", (r) => {
          if (!/^(file|data):/.test(r.url())) said.push(r.url());
        });
        const start = performance.now();
        await tab.goto(`file://${join(folder, "d.report.html")}`);
        // On a busy machine; a second is what a reader has.
        expect(performance.now() - start).toBeLessThan(5000);
        expect(await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")).toBe(true);
        shades.add(String(await tab.evaluate("getComputedStyle(document.body).backgroundColor")));
        await tab.fill("#plan-filter", "int8 weight conv");
        const [shown, all] = (await tab.evaluate(
          "document.getElementById('plan-table-n').textContent.split(' of ').map(Number)",
        )) as number[];
        expect(shown).toBeGreaterThan(0);
        expect(shown).toBeLessThan(all!);
        // Keys alone: every link, control and table that scrolls is reached, and shows that it is.
        const reached = new Set<string>();
        for (let k = 0; k < 60; k++) {
          await tab.keyboard.press("Tab");
          const at = (await tab.evaluate(
            "(() => { const e = document.activeElement; if (e === document.body) return ['', '']; return [e.id || e.getAttribute('aria-label') || e.textContent, getComputedStyle(e).outlineStyle]; })()",
          )) as [string, string];
          // Behind the last control comes the browser's own bar.
          if (at[0] === "") continue;
          if (reached.has(at[0])) break;
          reached.add(at[0]);
          expect(at[1], at[0]).not.toBe("none");
        }
        for (const want of ["Accuracy", "The plan", "plan-filter", "the plan", "As a table", "tensor"])
          expect([...reached]).toContain(want);
        expect(said).toEqual([]);
        await context.close();
      }
      expect(shades.size).toBe(2);
    } finally {
      await browser.close();
    }
  },
);
