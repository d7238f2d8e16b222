import { BUILD_SCHEMA } from "../build-config.ts";
import { COMMON, flagOf, type Option } from "../options.ts";
import { GATE_SCHEMA } from "../verify/gate/index.ts";
import type { Command } from "./command.ts";
import { COMMANDS } from "./commands.ts";

/** docs/cli.md: every command, argument and option, and the keys of the files that commands read, from the tables that parse them. */
export function cliReference(): string {
  const names = Object.keys(COMMANDS);
  return [
    "# The command line",
    "",
    "Made from the option table by `node docs/make-cli.mjs`; do not edit. Every command also takes `--help`, " +
      `${Object.keys(COMMON)
        .map((k) => `\`--${flagOf(k)}\``)
        .join(" and ")}. Results go to stdout, talk to stderr; \`NO_COLOR\` switches colours off, \`QC_DEBUG\` shows where a bug is.`,
    "",
    "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 finished, but below the bar asked for (budget, gate, lint, stale `--check`) · 130 interrupted.",
    "",
    "| command | |",
    "|---|---|",
    ...names.map((n) => `| [\`qc ${n}\`](#qc-${n.replace(/ /g, "-")}) | ${cell(COMMANDS[n]!.summary)} |`),
    "",
    ...names.flatMap((n) => [...section(n, COMMANDS[n]!), ""]),
    ...keysOf("gate.yaml", "What `qc check --gate` reads. `false` switches a check off; shares are of the reference.", GATE_SCHEMA),
    ...keysOf(
      "qc.yaml",
      "What `qc build` reads. `options:` takes every option of `qc quantize` that no artefact sets for itself.",
      BUILD_SCHEMA,
    ),
  ].join("\n");
}

function section(name: string, c: Command): readonly string[] {
  const args = c.args.map((a) => (a.optional ? `[${a.name}${a.many ? "..." : ""}]` : `${a.name}${a.many ? "..." : ""}`));
  const options = Object.entries<Option>(c.options);
  return [
    `## qc ${name}`,
    "",
    `${c.summary[0]!.toUpperCase()}${c.summary.slice(1)}.`,
    "",
    "```sh",
    ...c.examples,
    "```",
    "",
    `\`qc ${[name, ...args].join(" ")}${options.length > 0 ? " [OPTIONS]" : ""}\``,
    ...(c.args.length + options.length === 0
      ? []
      : [
          "",
          "| | | default |",
          "|---|---|---|",
          ...c.args.map((a) => `| \`${a.name.replace(/\|/g, "\\|")}\` | ${cell(a.help)} | |`),
          ...options.map(([key, o]) => `| ${formOf(key, o)} | ${cell(helpOf(o))} | ${defaultOf(o)} |`),
        ]),
  ];
}

const cell = (s: string) => s.replace(/\|/g, "\\|").replace(/\n/g, " ");
/** Patterns such as `head.*` are code, or Markdown reads their stars. */
const helpOf = (o: Option) =>
  `${o.help.replace(/'([^']+)'/g, "`$1`")}${o.type === "choice" ? `: ${o.of.map((v) => `\`${v}\``).join(", ")}` : ""}${o.type === "list" ? "; may be given several times" : ""}`;
function formOf(key: string, o: Option): string {
  const hint = o.type === "flag" ? "" : ` ${o.type === "choice" ? (o.hint ?? "NAME") : o.hint}`;
  return `${o.short === undefined ? "" : `\`-${o.short}\`, `}\`--${flagOf(key)}${hint.replace(/\|/g, "\\|")}\``;
}
function defaultOf(o: Option): string {
  return "default" in o && o.default !== undefined ? `\`${o.default}\`` : "";
}

interface Schema {
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean | Schema;
  readonly anyOf?: readonly Schema[];
  readonly enum?: readonly unknown[];
  readonly type?: string | readonly string[];
}

/** The keys of a file, two levels deep. */
function keysOf(file: string, what: string, schema: Schema): readonly string[] {
  const rows: string[] = [];
  for (const [key, s] of Object.entries(schema.properties ?? {})) {
    const inner = objectOf(s);
    rows.push(`| \`${key}\` | ${cell(inner?.description ?? s.description ?? typeOf(s))} |`);
    // Options of another command have their own table above.
    if (key === "options") continue;
    const child = typeof inner?.additionalProperties === "object" ? objectOf(inner.additionalProperties) : inner;
    const name = typeof inner?.additionalProperties === "object" ? `${key}.NAME` : key;
    for (const [k, t] of Object.entries(child?.properties ?? {})) rows.push(`| \`${name}.${k}\` | ${cell(t.description ?? typeOf(t))} |`);
  }
  return [`## ${file}`, "", what, "", "| key | |", "|---|---|", ...rows, ""];
}
function objectOf(s: Schema): Schema | undefined {
  if (s.anyOf !== undefined) return s.anyOf.map(objectOf).find((x) => x !== undefined);
  return s.properties !== undefined || typeof s.additionalProperties === "object" ? s : undefined;
}
function typeOf(s: Schema): string {
  if (s.enum !== undefined) return s.enum.map((v) => `\`${String(v)}\``).join(", ");
  return s.type === undefined ? "" : Array.isArray(s.type) ? s.type.join(" or ") : String(s.type);
}
