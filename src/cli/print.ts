import { Chalk, type ChalkInstance, supportsColor, supportsColorStderr } from "chalk";
import { type Diagnostic, explain } from "../diagnostics.ts";

/** Where a command prints. Results go to stdout; everything else goes to stderr, and is silent with --quiet. */
export interface Printer {
  readonly json: boolean;
  readonly color: ChalkInstance;
  /** A result: one or more lines on stdout. Left out when --json takes stdout. */
  out(text: string): void;
  /** One JSON document on stdout; nothing without --json. */
  document(value: unknown): void;
  /** A line for the person who waits. */
  talk(text: string): void;
  diagnostic(d: Diagnostic): void;
  /** The command failed: always printed, and a JSON document with --json. */
  failure(all: readonly Diagnostic[]): void;
  crash(message: string, stack: string | undefined): void;
  progress(stage: string, done: number, total: number): void;
  /** Clears an open progress line. */
  end(): void;
}

export interface PrinterOptions {
  readonly json: boolean;
  readonly quiet: boolean;
}

const MARK = { error: "✘", warning: "▲", info: "•" } as const;
/** On a terminal the line is redrawn at most this often; elsewhere a plain line is written at most this often. */
const REDRAW_MS = 100;
const PLAIN_MS = 10_000;
/** No progress before this much time: short work needs none. */
const PATIENCE_MS = 1000;

export function createPrinter({ json, quiet }: PrinterOptions): Printer {
  const noColor = (process.env["NO_COLOR"] ?? "") !== "";
  const level = (s: typeof supportsColor) => (noColor || s === false ? 0 : s.level);
  const color = new Chalk({ level: level(supportsColor) });
  const err = new Chalk({ level: level(supportsColorStderr) });
  const tty = process.stderr.isTTY === true;
  let open = false;
  let bar: { stage: string; start: number; last: number } | undefined;

  const clear = () => {
    if (open) process.stderr.write("\r\x1b[K");
    open = false;
  };
  const line = (text: string) => {
    clear();
    process.stderr.write(`${text}\n`);
  };
  const twoLines = (d: Diagnostic) => {
    const e = explain(d);
    const paint = e.severity === "error" ? err.red : e.severity === "warning" ? err.yellow : err.cyan;
    line(`${paint(MARK[e.severity])} ${e.text} ${err.dim(`[${d.code}]`)}\n  ${err.dim("→")} ${e.note}`);
  };

  return {
    json,
    color,
    out(text) {
      clear();
      if (!json) process.stdout.write(`${text}\n`);
    },
    document(value) {
      if (json) process.stdout.write(`${JSON.stringify(value, jsonNumber, 2)}\n`);
    },
    talk(text) {
      if (!quiet) line(text);
    },
    diagnostic(d) {
      if (!quiet) twoLines(d);
    },
    failure(all) {
      for (const d of all) twoLines(d);
      if (json)
        process.stdout.write(
          `${JSON.stringify({ ok: false, diagnostics: all.map((d) => ({ code: d.code, ...explain(d) })) }, undefined, 2)}\n`,
        );
    },
    crash(message, stack) {
      line(
        `${err.red(MARK.error)} ${message}\n  ${err.dim("→")} This is a bug in qc. Please report it with this output and, if you can, the model.`,
      );
      if (stack !== undefined && (process.env["QC_DEBUG"] ?? "") !== "") line(stack);
      if (json)
        process.stdout.write(
          `${JSON.stringify({ ok: false, diagnostics: [{ code: "internal", severity: "error", text: message }] }, undefined, 2)}\n`,
        );
    },
    progress(stage, done, total) {
      if (quiet) return;
      const now = performance.now();
      if (bar?.stage !== stage) bar = { stage, start: now, last: now };
      const wait = tty ? REDRAW_MS : PLAIN_MS;
      if (now - bar.start < PATIENCE_MS || now - bar.last < wait || total <= 0) return;
      bar.last = now;
      const left = done > 0 ? ((now - bar.start) / done) * (total - done) : undefined;
      const text = `${stage.padEnd(10)} ${done} of ${total}${left === undefined ? "" : `, ${duration(left / 1000)} left`}`;
      if (!tty) return line(text);
      process.stderr.write(`\r\x1b[K${err.dim(text)}`);
      open = true;
    },
    end: clear,
  };
}

/** JSON has no Infinity or NaN: they become strings, as the report's schema says. */
function jsonNumber(_key: string, v: unknown): unknown {
  if (typeof v === "number" && !Number.isFinite(v)) return String(v);
  if (typeof v === "bigint") return String(v);
  return v;
}

export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const m = Math.floor(seconds / 60);
  return m < 120 ? `${m} min ${Math.round(seconds - 60 * m)} s` : `${Math.floor(m / 60)} h ${m % 60} min`;
}

export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  if (n < 1e6) return `${(n / 1e3).toFixed(1)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}

/** Columns padded to their widest cell; numbers (cells of `right`) to the right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const r of rows) for (let i = 0; i < r.length; i++) widths[i] = Math.max(widths[i] ?? 0, r[i]!.length);
  return rows
    .map((r) =>
      r
        .map((c, i) => (right.includes(i) ? c.padStart(widths[i]!) : c.padEnd(widths[i]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
