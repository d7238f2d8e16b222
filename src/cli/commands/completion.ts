import { QcError } from "../../diagnostics.ts";
import { COMMON, flagOf, nearest, type Option } from "../../options.ts";
import type { Context, ExitCode } from "../command.ts";
import { COMMANDS } from "../commands.ts";

const SHELLS = ["bash", "zsh", "fish"] as const;

export async function run(c: Context<Record<never, never>>): Promise<ExitCode> {
  const shell = c.args[0]!;
  if (!(SHELLS as readonly string[]).includes(shell))
    throw new QcError({ code: "cli/unknown-value", flag: "SHELL", got: shell, allowed: SHELLS, nearest: nearest(shell, SHELLS) });
  const script = shell === "fish" ? fish() : shell === "zsh" ? `autoload -U +X bashcompinit && bashcompinit\n${bash()}` : bash();
  c.print.document({ ok: true, shell, script });
  c.print.out(script.trimEnd());
  return 0;
}

const flagsOf = (name: string) =>
  Object.entries<Option>({ ...COMMANDS[name]!.options, ...COMMON }).map(([k, o]) => [`--${flagOf(k)}`, o] as const);
const valuesOf = (o: Option) => (o.type === "choice" ? o.of : []);

/** Words and values come from the option table, so the script is never older than the program. */
function bash(): string {
  const names = Object.keys(COMMANDS);
  const first = [...new Set(names.map((n) => n.split(" ")[0]!))];
  const cases: string[] = [];
  for (const name of names) {
    const flags = flagsOf(name);
    const pattern = name.includes(" ") ? `"${name}"` : `"${name} "*`;
    const choices = flags
      .filter(([, o]) => valuesOf(o).length > 0)
      .map(([f, o]) => `${f}) COMPREPLY=($(compgen -W "${valuesOf(o).join(" ")}" -- "$cur")); return;;`);
    cases.push(`    ${pattern}) case "$prev" in ${choices.join(" ")} esac; words="${flags.map(([f]) => f).join(" ")} --help";;`);
  }
  // Two-word commands first: bash takes the first pattern that matches.
  cases.sort((a, b) => Number(b.includes('"*)')) - Number(a.includes('"*)')) || a.localeCompare(b)).reverse();
  const subs = first
    .map((f) => [f, names.filter((n) => n.startsWith(`${f} `)).map((n) => n.split(" ")[1]!)] as const)
    .filter(([, s]) => s.length > 0)
    .map(([f, s]) => `${f}) subs="${s.join(" ")}";;`);
  return `_qc() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" words="" subs=""
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "${first.join(" ")} --help --version" -- "$cur")); return; fi
  if [ "$COMP_CWORD" -eq 2 ]; then case "\${COMP_WORDS[1]}" in ${subs.join(" ")} esac; fi
  case "\${COMP_WORDS[1]} \${COMP_WORDS[2]}" in
${cases.join("\n")}
  esac
  case "$cur" in -*) COMPREPLY=($(compgen -W "$words" -- "$cur"));; *) COMPREPLY=($(compgen -W "$subs" -- "$cur") $(compgen -f -- "$cur"));; esac
}
complete -o filenames -F _qc qc
`;
}

function fish(): string {
  const lines: string[] = [];
  for (const [name, c] of Object.entries(COMMANDS)) {
    const [a, b] = name.split(" ");
    const when = b === undefined ? "__fish_use_subcommand" : `__fish_seen_subcommand_from ${a}`;
    lines.push(`complete -c qc -n '${when}' -a '${b ?? a}' -d '${quote(c.summary)}'`);
    for (const [flag, o] of flagsOf(name)) {
      const values = valuesOf(o).length > 0 ? ` -x -a '${valuesOf(o).join(" ")}'` : o.type === "flag" ? "" : " -r";
      const short = o.short === undefined ? "" : ` -s ${o.short}`;
      lines.push(`complete -c qc -n '__fish_seen_subcommand_from ${b ?? a}' -l '${flag.slice(2)}'${short} -d '${quote(o.help)}'${values}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
const quote = (s: string) => s.replace(/'/g, "\\'");
