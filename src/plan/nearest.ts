/** The known word that needs the fewest edits to become `given`, when that is at most a third of its letters (but one at least). */
export function nearest(given: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const word of known) {
    const d = distance(given.toLowerCase(), word.toLowerCase());
    if (d < least) {
      least = d;
      best = word;
    }
  }
  return best !== undefined && least <= Math.max(1, Math.ceil(best.length / 3)) ? best : undefined;
}

/** Levenshtein distance, one row at a time. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}
