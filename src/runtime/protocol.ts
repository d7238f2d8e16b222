import type { Diagnostic } from "../diagnostics.ts";
import type { Feeds, FoldSpec, IoInfo, NodeTime, SessionOptions, Tensor } from "./types.ts";

/** Main thread to worker. `id` comes back in the answer; messages are handled in order. */
export type Request =
  | {
      readonly id: number;
      readonly op: "open";
      readonly session: number;
      readonly model: string | Uint8Array;
      readonly options: SessionOptions;
    }
  | {
      readonly id: number;
      readonly op: "run";
      readonly session: number;
      readonly feeds: Feeds;
      readonly fetches: readonly string[] | undefined;
    }
  | { readonly id: number; readonly op: "time"; readonly session: number; readonly feeds: Feeds; readonly repeats: number }
  | { readonly id: number; readonly op: "fold-start"; readonly session: number; readonly fold: number; readonly spec: FoldSpec }
  | { readonly id: number; readonly op: "fold-feed"; readonly fold: number; readonly feeds: Feeds; readonly index: number }
  | { readonly id: number; readonly op: "fold-finish"; readonly fold: number }
  | { readonly id: number; readonly op: "fold-drop"; readonly fold: number }
  | { readonly id: number; readonly op: "profile"; readonly session: number }
  | { readonly id: number; readonly op: "optimized"; readonly session: number }
  | { readonly id: number; readonly op: "release"; readonly session: number }
  | { readonly id: number; readonly op: "versions" };

export interface Opened {
  readonly inputs: readonly IoInfo[];
  readonly outputs: readonly IoInfo[];
}
export interface Versions {
  readonly onnxruntime: string;
  readonly providers: readonly string[];
}
/** What each request resolves to. */
export type Result = Opened | Versions | Record<string, Tensor> | readonly number[] | readonly NodeTime[] | unknown;

export type Response =
  | { readonly id: number; readonly ok: true; readonly value: Result }
  | { readonly id: number; readonly ok: false; readonly diagnostics: readonly Diagnostic[] }
  | { readonly id: number; readonly ok: false; readonly message: string; readonly stack: string | undefined };

/** Structured clone copies the whole buffer under a view, so a view of part of one is cut out first. */
export function compactFeeds(feeds: Feeds): Feeds {
  const out: Record<string, Tensor> = {};
  for (const [name, t] of Object.entries(feeds)) out[name] = compact(t);
  return out;
}

function compact(t: Tensor): Tensor {
  const d = t.data;
  if (Array.isArray(d) || d.byteLength === d.buffer.byteLength) return { dtype: t.dtype, dims: t.dims, data: d };
  return { dtype: t.dtype, dims: t.dims, data: d.slice() };
}

/** Every buffer under typed arrays in plain objects, arrays, Maps and Sets of `value`: moved to the other thread instead of copied. */
export function buffersIn(value: unknown): ArrayBuffer[] {
  const found = new Set<ArrayBuffer>();
  const seen = new Set<object>();
  const visit = (x: unknown): void => {
    if (typeof x !== "object" || x === null || seen.has(x)) return;
    seen.add(x);
    if (ArrayBuffer.isView(x)) {
      if (x.buffer instanceof ArrayBuffer) found.add(x.buffer);
    } else if (x instanceof ArrayBuffer) found.add(x);
    else if (Array.isArray(x)) {
      if (typeof x[0] !== "number" && typeof x[0] !== "string") for (const y of x) visit(y);
    } else if (x instanceof Map) {
      for (const [k, v] of x) {
        visit(k);
        visit(v);
      }
    } else if (x instanceof Set) for (const y of x) visit(y);
    else for (const y of Object.values(x)) visit(y);
  };
  visit(value);
  return [...found];
}

/**
 * The compiled twin of a source module: `…/src/calibrate/fold.ts` → `…/dist/calibrate/fold.js`. Workers are plain Node, which
 * loads no TypeScript, while tests run the sources. Other URLs pass through.
 */
export function compiledUrl(url: string): string {
  if (!url.endsWith(".ts")) return url;
  const at = url.lastIndexOf("/src/");
  if (at < 0) return url;
  return `${url.slice(0, at)}/dist/${url.slice(at + 5, -3)}.js`;
}

/**
 * Words shared with a worker. Tearing a thread down inside a native call aborts the whole process, so the main thread asks (`STOP`) and
 * waits until the worker is not `BUSY`; a stopped worker starts nothing more.
 */
export const STOP = 0;
export const BUSY = 1;
export const WORDS = 2;
