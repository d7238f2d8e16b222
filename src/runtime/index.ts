import { Worker } from "node:worker_threads";
import { type Diagnostic, QcError } from "../diagnostics.ts";
import { Dropped } from "./garbage.ts";
import { BUSY, compactFeeds, compiledUrl, type Opened, type Request, type Response, STOP, type Versions, WORDS } from "./protocol.ts";
import type { Feeds, FoldSpec, IoInfo, NodeTime, Runtime, Session, SessionOptions, Tensor } from "./types.ts";

export interface RuntimeOptions {
  /** Threads that own sessions; each is one onnxruntime user. Default 1. */
  readonly workers?: number;
  /** Aborting closes the runtime: everything outstanding rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

export interface NodeRuntime extends Runtime {
  readonly workers: number;
  /** The same model once in each of `n` workers (default: all), for folds over disjoint samples side by side. */
  openPool(model: string | Uint8Array, options?: SessionOptions, n?: number): Promise<readonly Session[]>;
}

/** The young heap of a worker: tensors lie outside it, and the default of 48 MB would be filled before anything is collected. */
const YOUNG_MB = 2;

/** Samples that may wait in the worker while one runs: enough to hide loading, small enough to keep memory flat. */
const FOLD_QUEUE = 3;

type Unsent = Request extends infer R ? (R extends { readonly id: number } ? Omit<R, "id"> : never) : never;

/** Workers alive in this process. `process.exit` during a native call would abort with a core dump, so exit waits for them. */
const links = new Set<Link>();
const EXIT_WAIT_MS = 10_000;
/** Somebody who pressed Ctrl-C waits less. */
const INTERRUPT_WAIT_MS = 1000;
let guarded = false;

function guardExit(): void {
  if (guarded) return;
  guarded = true;
  process.on("exit", (code) => {
    const stuck = [...links].filter((l) => !l.settle(code === 130 ? INTERRUPT_WAIT_MS : EXIT_WAIT_MS));
    if (stuck.length === 0) return;
    // A run of many seconds cannot be stopped from outside: leave as the signal would have.
    process.removeAllListeners("SIGINT");
    process.kill(process.pid, code === 130 ? "SIGINT" : "SIGKILL");
  });
}

/** One worker and the requests it has not answered. */
class Link {
  readonly #worker: Worker;
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * WORDS));
  readonly #waiting = new Map<number, { resolve: (v: unknown) => void; reject: (e: unknown) => void }>();
  #next = 0;
  #dead: unknown;
  sessions = 0;

  constructor() {
    this.#words[BUSY] = 1; // until it has loaded the engine
    const file = new URL(compiledUrl(import.meta.url).replace(/index\.js$/, "worker.js"));
    // Flags of the main program (--input-type, --inspect, loaders of a test runner) are not for it.
    this.#worker = new Worker(file, {
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
      workerData: this.#words.buffer,
      execArgv: [],
    });
    this.#worker.unref(); // an idle engine does not keep the process alive; see `send`
    this.#worker.on("message", (r: Response) => this.#settle(r));
    this.#worker.on("error", (e) => this.#ended(e.message, e));
    this.#worker.on("exit", (code) => this.#ended(`exit code ${code}`));
    links.add(this);
  }

  send(request: Unsent): Promise<unknown> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.#worker.ref();
      this.#waiting.set(id, { resolve, reject });
      try {
        this.#worker.postMessage({ ...request, id } as Request);
      } catch (e) {
        this.#settle({ id, ok: false, message: e instanceof Error ? e.message : String(e), stack: undefined });
      }
    });
  }

  #settle(r: Response): void {
    const w = this.#waiting.get(r.id);
    if (w === undefined) return;
    this.#waiting.delete(r.id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (r.ok) w.resolve(r.value);
    else if ("diagnostics" in r) w.reject(new QcError(r.diagnostics as readonly Diagnostic[]));
    else {
      const e = new Error(r.message);
      if (r.stack !== undefined) e.stack = r.stack;
      w.reject(e);
    }
  }

  #ended(message: string, cause?: unknown): void {
    links.delete(this);
    Atomics.store(this.#words, BUSY, 0);
    this.fail(new QcError({ code: "runtime/worker-died", message }, { cause }));
  }

  fail(e: unknown): void {
    this.#dead ??= e;
    const all = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const w of all) w.reject(this.#dead);
  }

  /** Ends the thread as soon as its native call returns; resolves then, or when that takes longer than somebody wants to wait. */
  async terminate(): Promise<void> {
    Atomics.store(this.#words, STOP, 1);
    const patience = performance.now() + INTERRUPT_WAIT_MS;
    while (Atomics.load(this.#words, BUSY) === 1) {
      if (performance.now() > patience) {
        this.#worker.once("message", () => void this.#worker.terminate());
        return;
      }
      await new Promise((r) => setTimeout(r, 1));
    }
    await this.#worker.terminate();
  }

  /** For the exit handler, where nothing can be awaited: blocks until no native call runs. False when that takes longer than `ms`. */
  settle(ms: number): boolean {
    Atomics.store(this.#words, STOP, 1);
    return Atomics.wait(this.#words, BUSY, 1, ms) !== "timed-out";
  }
}

class WorkerSession implements Session {
  static #ids = 0;
  readonly #link: Link;
  readonly #id: number;
  readonly inputs: readonly IoInfo[];
  readonly outputs: readonly IoInfo[];

  private constructor(link: Link, id: number, opened: Opened) {
    this.#link = link;
    this.#id = id;
    this.inputs = opened.inputs;
    this.outputs = opened.outputs;
  }

  static async open(link: Link, model: string | Uint8Array, options: SessionOptions): Promise<WorkerSession> {
    const session = WorkerSession.#ids++;
    link.sessions++;
    try {
      const compact = typeof model === "string" || model.byteLength === model.buffer.byteLength ? model : model.slice();
      return new WorkerSession(link, session, (await link.send({ op: "open", session, model: compact, options })) as Opened);
    } catch (e) {
      link.sessions--;
      throw e;
    }
  }

  async run(feeds: Feeds, fetches?: readonly string[]): Promise<Record<string, Tensor>> {
    return (await this.#link.send({ op: "run", session: this.#id, feeds: compactFeeds(feeds), fetches })) as Record<string, Tensor>;
  }

  async time(feeds: Feeds, repeats = 1): Promise<readonly number[]> {
    return (await this.#link.send({ op: "time", session: this.#id, feeds: compactFeeds(feeds), repeats })) as readonly number[];
  }

  async fold(feeds: AsyncIterable<Feeds> | Iterable<Feeds>, spec: FoldSpec): Promise<unknown> {
    const fold = WorkerSession.#ids++;
    const flight: Promise<unknown>[] = [];
    const send = (r: Unsent) => {
      const p = this.#link.send(r);
      p.catch(() => {}); // awaited below, in order; until then a rejection must not count as unhandled
      flight.push(p);
    };
    send({ op: "fold-start", session: this.#id, fold, spec: { ...spec, module: compiledUrl(spec.module) } });
    try {
      let index = 0;
      const dropped = new Dropped();
      for await (const f of feeds) {
        send({ op: "fold-feed", fold, feeds: compactFeeds(f), index: index++ });
        dropped.add(f);
        while (flight.length > FOLD_QUEUE) await flight.shift();
      }
      while (flight.length > 0) await flight.shift();
      return await this.#link.send({ op: "fold-finish", fold });
    } catch (e) {
      this.#link.send({ op: "fold-drop", fold }).catch(() => {});
      throw e;
    }
  }

  async optimized(): Promise<Uint8Array> {
    return (await this.#link.send({ op: "optimized", session: this.#id })) as Uint8Array;
  }

  async profile(): Promise<readonly NodeTime[]> {
    return (await this.#link.send({ op: "profile", session: this.#id })) as readonly NodeTime[];
  }

  async release(): Promise<void> {
    this.#link.sessions--;
    await this.#link.send({ op: "release", session: this.#id });
  }
}

/**
 * onnxruntime-node in worker threads. The threads start at once and load the engine while the caller does other work. A session lives in
 * the thread with the fewest; `openPool` opens one in each.
 */
export function createRuntime(options: RuntimeOptions = {}): NodeRuntime {
  const workers = Math.max(1, options.workers ?? 1);
  guardExit();
  const own = Array.from({ length: workers }, () => new Link());
  let closing: Promise<void> | undefined;
  const stop = (reason: unknown): Promise<void> => {
    options.signal?.removeEventListener("abort", onAbort);
    for (const l of own) l.fail(reason);
    closing ??= Promise.all(own.map((l) => l.terminate())).then(() => {});
    return closing;
  };
  const onAbort = () => void stop(options.signal?.reason ?? new QcError({ code: "runtime/closed", why: "interrupted" }));
  if (options.signal?.aborted) onAbort();
  else options.signal?.addEventListener("abort", onAbort, { once: true });

  /** WebGPU has one device for the whole process, and onnxruntime 1.30 ends in a segmentation fault when two threads use it. */
  const threadsFor = (o: SessionOptions) => (o.provider === "webgpu" ? own.slice(0, 1) : own);
  return {
    workers,
    open(model, sessionOptions = {}) {
      const free = threadsFor(sessionOptions).reduce((a, b) => (b.sessions < a.sessions ? b : a));
      return WorkerSession.open(free, model, sessionOptions);
    },
    openPool(model, sessionOptions = {}, n = workers) {
      return Promise.all(
        threadsFor(sessionOptions)
          .slice(0, Math.max(1, n))
          .map((l) => WorkerSession.open(l, model, sessionOptions)),
      );
    },
    async versions() {
      return (await own[0]!.send({ op: "versions" })) as Versions;
    },
    close: () => stop(new QcError({ code: "runtime/closed", why: "close() was called" })),
  };
}
