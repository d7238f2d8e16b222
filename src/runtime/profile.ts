import type { NodeTime } from "./types.ts";

interface TraceEvent {
  readonly cat?: string;
  readonly name?: string;
  readonly dur?: number;
  readonly args?: Readonly<Record<string, unknown>>;
}
const SUFFIX = "_kernel_time";

/** onnxruntime's profile (an array of Chrome trace events) → time per node and run, in order of first execution. */
export function parseProfile(text: string): NodeTime[] {
  const nodes = new Map<string, { node: string; op: string; provider: string; microseconds: number[] }>();
  for (const e of JSON.parse(text) as readonly TraceEvent[]) {
    if (e.cat !== "Node" || !e.name?.endsWith(SUFFIX)) continue;
    const node = e.name.slice(0, -SUFFIX.length);
    let row = nodes.get(node);
    if (row === undefined) {
      row = { node, op: String(e.args?.["op_name"] ?? ""), provider: String(e.args?.["provider"] ?? ""), microseconds: [] };
      nodes.set(node, row);
    }
    row.microseconds.push(e.dur ?? 0);
  }
  return [...nodes.values()];
}
