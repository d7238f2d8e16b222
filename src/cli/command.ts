import type { Options, Parsed } from "../options.ts";
import type { Printer } from "./print.ts";

export interface Argument {
  readonly name: string;
  readonly help: string;
  readonly optional?: true;
  /** Takes all that are left; only on the last one. */
  readonly many?: true;
}

/** What a command gets: its words, its options, where to print, and when to stop. */
export interface Context<T extends Options> {
  readonly args: readonly string[];
  readonly options: Parsed<T>;
  readonly print: Printer;
  readonly signal: AbortSignal;
}

/** 0 done · 1 failed · 2 wrong usage · 3 finished, but below the bar asked for · 130 interrupted. */
export type ExitCode = 0 | 1 | 2 | 3 | 130;

export interface Command {
  readonly summary: string;
  readonly args: readonly Argument[];
  readonly options: Options;
  /** Full command lines; the first is shown by --help. */
  readonly examples: readonly string[];
  run(c: Context<Options>): Promise<ExitCode>;
}

/**
 * A row of the command table. `load` imports the command's module when it is run, so that no command pays for another's start-up.
 * The options that `run` receives have the types of the row's table: the parser made them from it.
 */
export function command<const T extends Options>(row: {
  readonly summary: string;
  readonly args?: readonly Argument[];
  readonly options: T;
  readonly examples: readonly string[];
  readonly load: () => Promise<{ readonly run: (c: Context<T>) => Promise<ExitCode> }>;
}): Command {
  return {
    summary: row.summary,
    args: row.args ?? [],
    options: row.options,
    examples: row.examples,
    run: async (c) => (await row.load()).run(c as Context<T>),
  };
}
