import type { NdData } from "../io/npy.ts";
import type { DType } from "../quant/dtype.ts";

/** A tensor at run time. 4-bit, 2-bit, bfloat16 and float8 never cross the runtime's border: the runtime casts or refuses them. */
export interface Tensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** float16: Uint16Array of bit patterns. bool: Uint8Array. int64: BigInt64Array. string: string[]. */
  readonly data: TensorArray;
}
export type TensorArray = NdData;
export type Feeds = Readonly<Record<string, Tensor>>;

export type OptLevel = "disabled" | "basic" | "extended" | "layout" | "all";

export interface SessionOptions {
  readonly level?: OptLevel; // default "disabled": reference arithmetic
  readonly threads?: number; // intra-op, default 1: fixed, so that results do not depend on the machine
  readonly provider?: "cpu" | "cuda" | "webgpu";
  /** onnxruntime config entries, e.g. { "session.disable_quant_qdq": "1" }. */
  readonly config?: Readonly<Record<string, string>>;
  /** Folder against which external data in a model given as bytes resolves. */
  readonly externalFolder?: string;
  /** Write the optimized graph here. */
  readonly optimizedPath?: string;
  /** Record per-node times; `Session.profile()` returns them. */
  readonly profile?: boolean;
  /** Keep the optimized graph of a session with `profile`; `Session.optimized()` returns it. */
  readonly keepGraph?: boolean;
  /**
   * Input → output that is fed back: an input left out of the feeds takes the value that this output had in the session's run before.
   * The first sample of a sequence gives the input itself.
   */
  readonly state?: Readonly<Record<string, string>>;
  readonly label?: string; // for messages
}

export interface IoInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly dims: readonly (number | string)[];
}

export interface NodeTime {
  readonly node: string;
  readonly op: string;
  readonly provider: string;
  readonly microseconds: readonly number[];
}

/** One loaded model. `run` resolves in call order; calls may be queued without waiting. */
export interface Session {
  readonly inputs: readonly IoInfo[];
  readonly outputs: readonly IoInfo[];
  run(feeds: Feeds, fetches?: readonly string[]): Promise<Record<string, Tensor>>;
  /** Runs and drops the outputs; resolves to the milliseconds of the run itself, measured beside the engine. */
  time(feeds: Feeds, repeats?: number): Promise<readonly number[]>;
  /**
   * Runs every feed and hands the outputs to a fold that lives beside the session, so that big outputs never cross a thread border.
   * Resolves to `finish(state)`. See `Fold`.
   */
  fold(feeds: AsyncIterable<Feeds> | Iterable<Feeds>, spec: FoldSpec): Promise<unknown>;
  /** The graph that really runs, fused and in the engine's layouts, as an ONNX file. Before `profile()`. */
  optimized(): Promise<Uint8Array>;
  profile(): Promise<readonly NodeTime[]>;
  release(): Promise<void>;
}

/** Names an exported `Fold` factory: `export const NAME = (args) => Fold`. `module` is `import.meta.url` of the file that has it. */
export interface FoldSpec {
  readonly module: string;
  readonly name: string;
  readonly args: unknown; // structured-cloneable
}

/** A fold over runs, executed in the worker. `finish` returns something structured-cloneable (typed arrays are moved, not copied). */
export interface Fold {
  update(outputs: Readonly<Record<string, Tensor>>, feeds: Feeds, index: number): void;
  finish(): unknown;
}

/** The engine. A model is a path, or bytes (which must not be changed while the session lives). */
export interface Runtime {
  open(model: string | Uint8Array, options?: SessionOptions): Promise<Session>;
  versions(): Promise<{ readonly onnxruntime: string; readonly providers: readonly string[] }>;
  /** Stops the workers; outstanding runs reject. */
  close(): Promise<void>;
}
