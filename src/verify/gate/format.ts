import type { Finding, Judged } from "./index.ts";

const number = (x: number | undefined, unit: string): string => {
  if (x === undefined) return "";
  if (unit === "bytes") return x < 1e6 ? `${(x / 1e3).toFixed(1)} kB` : `${(x / 1e6).toFixed(2)} MB`;
  if (unit === "share") return `${(100 * x).toFixed(1)} %`;
  return `${Math.abs(x) >= 100 ? x.toFixed(1) : Math.abs(x) >= 1 ? x.toFixed(2) : x.toFixed(3)}${unit === "" ? "" : ` ${unit}`}`;
};
const percent = (x: number | undefined, unit: string | undefined) =>
  x === undefined ? "" : unit?.endsWith("points") ? `${x.toFixed(2)} points` : `${x < 0 ? "−" : "+"}${Math.abs(100 * x).toFixed(2)} %`;

/** Columns: verdict, severity, check, reference, candidate, change for the worse, limit, note. */
export function rowOf(f: Finding): readonly string[] {
  return [
    f.outcome,
    f.outcome === "shown" ? "" : f.severity,
    f.check,
    number(f.reference, f.unit),
    number(f.candidate, f.unit),
    percent(f.change, f.limit),
    f.limit ?? "",
    f.note,
  ];
}
export const HEADINGS = ["verdict", "", "check", "reference", "candidate", "worse by", "limit", ""] as const;

const figuresOf = (f: Finding) =>
  f.reference === undefined || f.candidate === undefined ? "" : `${number(f.reference, f.unit)} → ${number(f.candidate, f.unit)}; `;

const xml = (s: string) => s.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`).replace(/[^\t\n\r -\uFFFD]/g, " ");

/** JUnit XML: one test case a check. */
export function formatJunit(name: string, j: Judged): string {
  const cases = j.findings
    .filter((f) => f.outcome !== "shown")
    .map((f) => {
      const failed = j.failed.includes(f);
      const inner = failed
        ? `<failure type="${f.severity}" message="${xml(f.note)}"/>`
        : f.outcome === "skipped"
          ? `<skipped message="${xml(f.note)}"/>`
          : f.outcome === "pass" && f.note === ""
            ? ""
            : `<system-out>${xml(`${f.outcome} (${f.severity}): ${figuresOf(f)}${f.note}`)}</system-out>`;
      return `    <testcase classname="${xml(name)}" name="${xml(f.check)}">${inner}</testcase>`;
    });
  const skipped = j.findings.filter((f) => f.outcome === "skipped").length;
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n  <testsuite name="qc check" tests="${cases.length}" failures="${j.failed.length}" skipped="${skipped}">\n${cases.join("\n")}\n  </testsuite>\n</testsuites>\n`;
}

const escaped = (s: string) => s.replace(/%/g, "%25").replace(/\r/g, "%0D").replace(/\n/g, "%0A");

/** Workflow commands of GitHub Actions: errors for what fails, warnings for what is undecided or only warns. */
export function formatGithub(j: Judged, file: string): string {
  return j.findings
    .filter((f) => f.outcome === "fail" || f.outcome === "undecided")
    .map((f) => {
      const kind = j.failed.includes(f) ? "error" : "warning";
      const property = (s: string) => escaped(s).replace(/:/g, "%3A").replace(/,/g, "%2C");
      return `::${kind} file=${property(file)},title=${property(`qc check: ${f.check} ${f.outcome} (${f.severity})`)}::${escaped(f.note)}\n`;
    })
    .join("");
}

/** A summary for a pull request. */
export function formatMarkdown(j: Judged, names: { readonly reference: string; readonly candidate: string }): string {
  const cell = (s: string) => s.replace(/\|/g, "\\|").replace(/\n/g, " ");
  const MARK: Readonly<Record<string, string>> = { pass: "✅", fail: "❌", undecided: "❔", shown: "·", skipped: "–" };
  const rows = j.findings.map((f) => {
    const [verdict, severity, ...rest] = rowOf(f);
    const mark = f.outcome === "fail" && !j.failed.includes(f) ? "⚠️" : MARK[f.outcome]!;
    return `| ${[`${mark} ${verdict}`, severity!, ...rest].map(cell).join(" | ")} |`;
  });
  const head = j.failed.length === 0 ? "passes" : `fails ${j.failed.length} of its checks`;
  return [
    `### qc check: \`${names.candidate}\` ${head}`,
    "",
    `Compared with \`${names.reference}\`.`,
    "",
    "| verdict | | check | reference | candidate | worse by | limit | |",
    "|---|---|---|---:|---:|---:|---:|---|",
    ...rows,
    "",
  ].join("\n");
}
