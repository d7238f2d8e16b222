import { LINT_RULES } from "./rules.ts";
import type { LintFinding, LintKind } from "./types.ts";

export interface LintSubject {
  /** The file as the user named it. */
  readonly file: string;
  readonly target: string;
  readonly tool: string;
  readonly version: string;
}

/** One document: subject, findings, counts. */
export function lintDocument(findings: readonly LintFinding[], subject: LintSubject) {
  const count = (kind: LintKind): number => findings.filter((f) => f.kind === kind).length;
  const counts = { reject: count("reject"), meaning: count("meaning"), slow: count("slow") };
  return { schema: "qc.lint/1", ...subject, counts, findings };
}

export function printLintJson(findings: readonly LintFinding[], subject: LintSubject): string {
  return `${JSON.stringify(lintDocument(findings, subject), null, 2)}\n`;
}

/** Severity of a kind: what a target refuses or computes otherwise is an error. */
export const LEVEL: Readonly<Record<LintKind, "error" | "warning" | "note">> = { reject: "error", meaning: "error", slow: "warning" };

/** SARIF 2.1.0, for code scanning: one run, the rules that were asked, a result for each finding with the node as logical location. */
export function printSarif(findings: readonly LintFinding[], subject: LintSubject): string {
  const name = subject.target.split("@")[0]!.split(":")[0]!;
  const rules = LINT_RULES.filter((r) => (r.targets as readonly string[]).includes(name));
  const doc = {
    $schema: "https://json.schemastore.org/sarif-2.1.0.json",
    version: "2.1.0",
    runs: [
      {
        tool: {
          driver: {
            name: subject.tool,
            version: subject.version,
            rules: rules.map((r) => ({
              id: r.id,
              shortDescription: { text: r.title },
              help: { text: r.remedy },
              defaultConfiguration: { level: LEVEL[r.kind] },
              properties: { kind: r.kind, source: r.source },
            })),
          },
        },
        properties: { target: subject.target },
        results: findings.map((f) => ({
          ruleId: f.rule,
          ruleIndex: rules.findIndex((r) => r.id === f.rule),
          level: LEVEL[f.kind],
          message: { text: `${f.text}. ${f.remedy}` },
          locations: [
            {
              physicalLocation: { artifactLocation: { uri: subject.file } },
              ...(f.node !== "" && { logicalLocations: [{ name: f.node, kind: "element", fullyQualifiedName: `${f.op} ${f.node}` }] }),
            },
          ],
        })),
      },
    ],
  };
  return `${JSON.stringify(doc, null, 2)}\n`;
}
