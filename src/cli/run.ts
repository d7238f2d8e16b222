import { type Diagnostic, QcError } from "../diagnostics.ts";
import type { ExitCode } from "./command.ts";
import { type Invocation, parseArguments } from "./parser.ts";
import { createPrinter, type Printer } from "./print.ts";

/** Runs one command line and ends the process with its exit code, once what was printed has been written. */
export async function runCli(argv: readonly string[]): Promise<void> {
  // A reader that went away (`qc … | head`) is no failure of ours.
  process.stdout.on("error", (e: NodeJS.ErrnoException) => process.exit(e.code === "EPIPE" ? 0 : 1));
  const code = await execute(argv);
  process.exitCode = code;
  await Promise.all([process.stdout, process.stderr].map((s) => new Promise<void>((done) => s.write("", () => done()))));
  process.exit(code);
}

async function execute(argv: readonly string[]): Promise<ExitCode> {
  let invocation: Invocation;
  try {
    invocation = parseArguments(argv);
  } catch (e) {
    return fail(e, createPrinter({ json: argv.includes("--json"), quiet: false }));
  }
  const print = createPrinter(invocation.kind === "run" ? invocation.common : { json: false, quiet: false });
  if (invocation.kind === "help") {
    print.out(invocation.text.replace(/\n$/, ""));
    return 0;
  }
  const stop = new AbortController();
  const interrupt = () => {
    // The second time, at once: temporary files are removed by the exit handlers of io/atomic.
    if (stop.signal.aborted) process.exit(130);
    stop.abort(new QcError({ code: "cli/interrupted" }));
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);
  const limit = (invocation.options as { readonly memory?: unknown }).memory;
  const watch = typeof limit === "number" ? watchMemory(limit, stop) : undefined;
  try {
    const code = await invocation.command.run({ args: invocation.args, options: invocation.options, print, signal: stop.signal });
    print.end();
    return code;
  } catch (e) {
    print.end();
    if (!stop.signal.aborted) return fail(e, print);
    const why: unknown = stop.signal.reason;
    const code = fail(why, print);
    return isInterrupt(why) ? 130 : code;
  } finally {
    clearInterval(watch);
  }
}

function isInterrupt(e: unknown): boolean {
  return e instanceof QcError && e.diagnostics.some((d) => d.code === "cli/interrupted");
}

/** `--memory`: the process is measured four times a second, since most of it is the engine's and not on our heap. */
function watchMemory(limit: number, stop: AbortController): NodeJS.Timeout {
  const mb = (x: number) => `${Math.ceil(x / 1e6)} MB`;
  return setInterval(() => {
    const used = process.memoryUsage.rss();
    if (used > limit) stop.abort(new QcError({ code: "cli/over-memory", limit: mb(limit), used: mb(used) }, { exitCode: 1 }));
  }, 250).unref();
}

function fail(e: unknown, print: Printer): ExitCode {
  if (e instanceof QcError) {
    print.failure(e.diagnostics);
    return e.exitCode;
  }
  const message = e instanceof Error ? e.message : String(e);
  print.crash(message.startsWith("internal:") ? message : `internal: ${message}`, e instanceof Error ? e.stack : undefined);
  return 1;
}

export type { Diagnostic };
