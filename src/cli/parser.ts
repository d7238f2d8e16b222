import { Command as Commander, CommanderError, Option as CommanderOption } from "commander";
import { QcError } from "../diagnostics.ts";
import { COMMON, EMPTY, flagOf, nearest, type Option, type Options, type Parsed, parseChoice, parseNumber } from "../options.ts";
import type { Command } from "./command.ts";
import { COMMANDS } from "./commands.ts";

export type Invocation =
  | { readonly kind: "help"; readonly text: string }
  | {
      readonly kind: "run";
      readonly name: string;
      readonly command: Command;
      readonly args: readonly string[];
      readonly options: Parsed<Options>;
      readonly common: Parsed<typeof COMMON>;
    };

/** Turns words into a command with typed options, or throws a `cli/…` diagnostic (exit code 2). */
export function parseArguments(argv: readonly string[]): Invocation {
  const [first] = argv;
  if (first === undefined || isHelp(first) || first === "help") {
    const rest = first === "help" ? argv.slice(1) : [];
    return { kind: "help", text: rest.length > 0 ? commandHelp(rest) : mainHelp() };
  }
  if (first.startsWith("-"))
    throw new QcError({ code: "cli/unknown-option", got: first, command: "", nearest: nearest(first, ["--help", "--version"]) });
  const two = `${first} ${argv[1] ?? ""}`;
  const name = Object.hasOwn(COMMANDS, two) ? two : first;
  const command = COMMANDS[name];
  if (command === undefined) {
    const subs = Object.keys(COMMANDS).filter((k) => k.startsWith(`${first} `));
    if (subs.length > 0 && (argv[1] === undefined || isHelp(argv[1]))) return { kind: "help", text: subs.map(usageLine).join("\n") };
    const got = subs.length > 0 ? two : first;
    throw new QcError({ code: "cli/unknown-command", got, nearest: nearest(got, subs.length > 0 ? subs : Object.keys(COMMANDS)) });
  }
  const rest = argv.slice(name.split(" ").length);
  const parser = parserOf(name, command);
  if (rest.some(isHelp)) return { kind: "help", text: parser.helpInformation() };
  try {
    parser.parse(rest, { from: "user" });
  } catch (e) {
    throw e instanceof CommanderError ? usageError(e, name, command) : e;
  }
  const all = parser.opts<Record<string, unknown>>();
  const options: Record<string, unknown> = {};
  for (const key of Object.keys(command.options)) options[key] = all[key] ?? EMPTY[command.options[key]!.type];
  return {
    kind: "run",
    name,
    command,
    args: parser.args,
    options: options as Parsed<Options>,
    common: { json: all["json"] === true, quiet: all["quiet"] === true },
  };
}

const isHelp = (w: string) => w === "--help" || w === "-h";

function parserOf(name: string, c: Command): Commander {
  const p = new Commander(`qc ${name}`).description(c.summary).exitOverride().helpOption("-h, --help", "show this");
  p.configureOutput({ writeErr: () => {}, writeOut: () => {} }).showSuggestionAfterError(false);
  for (const a of c.args) p.argument(argumentForm(a), a.help);
  for (const [key, o] of Object.entries({ ...c.options, ...COMMON })) p.addOption(optionOf(key, o));
  p.addHelpText("after", "");
  const examples = c.examples.map((e) => `  ${e}`).join("\n");
  const base = p.helpInformation.bind(p);
  p.helpInformation = (context) => `${base(context)}\nExample${c.examples.length > 1 ? "s" : ""}:\n${examples}\n`;
  return p;
}

function argumentForm(a: Command["args"][number]): string {
  const inner = a.many ? `${a.name}...` : a.name;
  return a.optional ? `[${inner}]` : `<${inner}>`;
}

function optionOf(key: string, o: Option): CommanderOption {
  const flag = `--${flagOf(key)}`;
  const head = o.short === undefined ? flag : `-${o.short}, ${flag}`;
  switch (o.type) {
    case "flag":
      return new CommanderOption(head, o.help);
    case "text":
      return withDefault(new CommanderOption(`${head} <${o.hint}>`, o.help), o.default);
    case "list":
      return new CommanderOption(`${head} <${o.hint}>`, o.help).argParser((raw: string, so: readonly string[] = []) => [
        ...so,
        ...raw.split(",").filter((x) => x !== ""),
      ]);
    case "number":
      return withDefault(
        new CommanderOption(`${head} <${o.hint}>`, o.help).argParser((raw: string) => parseNumber(flag, raw, o)),
        o.default,
      );
    case "choice":
      return withDefault(
        new CommanderOption(`${head} <${o.hint ?? "NAME"}>`, `${o.help}: ${o.of.join(", ")}`).argParser((raw: string) =>
          parseChoice(flag, raw, o),
        ),
        o.default,
      );
    default:
      return o satisfies never;
  }
}
function withDefault(option: CommanderOption, value: unknown): CommanderOption {
  return value === undefined ? option : option.default(value);
}

function usageError(e: CommanderError, name: string, c: Command): QcError {
  const quoted = /'([^']+)'/.exec(e.message)?.[1] ?? "";
  switch (e.code) {
    case "commander.unknownOption": {
      const flags = Object.keys({ ...c.options, ...COMMON, help: 0 }).map((k) => `--${flagOf(k)}`);
      return new QcError({ code: "cli/unknown-option", got: quoted, command: name, nearest: nearest(quoted, flags) });
    }
    case "commander.optionMissingArgument":
      return new QcError({ code: "cli/missing-value", flag: quoted });
    case "commander.missingArgument":
      return new QcError({ code: "cli/missing-argument", name: quoted, command: name });
    case "commander.excessArguments":
      return new QcError({ code: "cli/too-many-arguments", command: name, got: excess(e.message) });
    default:
      throw e;
  }
}
function excess(message: string): readonly string[] {
  return (
    /Got ([^.]*)|got (\d+)/
      .exec(message)
      ?.slice(1)
      .find((x) => x !== undefined) ?? ""
  ).split(", ");
}

function usageLine(name: string): string {
  const c = COMMANDS[name]!;
  return `  qc ${[name, ...c.args.map(argumentForm)].join(" ").padEnd(30)} ${c.summary}`;
}
function commandHelp(words: readonly string[]): string {
  const inner = parseArguments([...words, "--help"]);
  return inner.kind === "help" ? inner.text : "";
}
function mainHelp(): string {
  return [
    "qc: a quantization compiler for ONNX",
    "",
    "Usage: qc COMMAND [ARGUMENTS] [OPTIONS]",
    "",
    ...Object.keys(COMMANDS).map(usageLine),
    "",
    "Every command takes --help, --json and --quiet. Results go to stdout, talk to stderr.",
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished but below the bar asked for, 130 interrupted.",
    "",
    "Example:",
    "  qc quantize model.onnx --data set.yaml",
    "",
  ].join("\n");
}
