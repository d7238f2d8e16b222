import type { Explained } from "../diagnostics.ts";

/** `"a", "b", "c" and 4 more`. */
export function list(names: readonly string[], most = 3): string {
  const head = names
    .slice(0, most)
    .map((n) => `"${n}"`)
    .join(", ");
  return names.length > most ? `${head} and ${names.length - most} more` : head;
}
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${n} ${n === 1 ? one : many}`;
}
export function error(text: string, note: string): Explained {
  return { severity: "error", text, note };
}
export function warning(text: string, note: string): Explained {
  return { severity: "warning", text, note };
}
export function info(text: string, note: string): Explained {
  return { severity: "info", text, note };
}
/** Compile-time check of a section of the table. */
export type Section = Readonly<Record<string, (facts: never) => Explained>>;
