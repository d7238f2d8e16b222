import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import * as ort from "onnxruntime-node";
import { QcError } from "../diagnostics.ts";
import { DTYPES, type DType } from "../quant/dtype.ts";
import { clean, loadDiagnostic, runDiagnostic } from "./errors.ts";
import { Dropped } from "./garbage.ts";
import { parseProfile } from "./profile.ts";
import { BUSY, buffersIn, type Opened, type Request, type Response, STOP } from "./protocol.ts";
import type { Feeds, Fold, IoInfo, SessionOptions, Tensor, TensorArray } from "./types.ts";

/** The thread that owns onnxruntime sessions: `run` blocks it, never the caller. */

interface Open {
  readonly session: ort.InferenceSession;
  readonly label: string;
  readonly inputs: readonly IoInfo[];
  readonly outputs: readonly IoInfo[];
  readonly state: Readonly<Record<string, string>>;
  /** Last outputs that are fed back. */
  readonly carried: Map<string, ort.Tensor>;
  profileFolder: string | undefined;
}

const sessions = new Map<number, Open>();
const dropped = new Dropped();
const folds = new Map<number, { readonly fold: Fold; readonly of: Open }>();
/** Types that onnxruntime-node hands out; a graph output of another type makes it throw, or abort the process (4 bit). */
const CARRIED = new Set<string>(
  (Object.keys(DTYPES) as DType[]).filter((d) => DTYPES[d].kind !== "complex" && !/^(float8|float4|bfloat16|u?int[24]$)/.test(d)),
);

ort.env.logLevel = "fatal"; // every failure is thrown, and printed once by the caller

function open(model: string | Uint8Array, o: SessionOptions): Promise<Open> {
  return create(model, o, o.profile ? mkdtempSync(join(tmpdir(), "qc-profile-")) : undefined);
}

async function create(model: string | Uint8Array, o: SessionOptions, profileFolder: string | undefined): Promise<Open> {
  const label = o.label ?? (typeof model === "string" ? model : "model");
  const extra: Record<string, string> = { ...o.config };
  if (o.externalFolder !== undefined) extra["session.model_external_initializers_file_folder_path"] = o.externalFolder;
  const options: ort.InferenceSession.SessionOptions = {
    executionProviders: [o.provider ?? "cpu"],
    graphOptimizationLevel: o.level ?? "disabled",
    intraOpNumThreads: o.threads ?? 1,
    interOpNumThreads: 1,
    executionMode: "sequential",
    logSeverityLevel: 4,
    extra,
    ...(o.optimizedPath === undefined ? {} : { optimizedModelFilePath: o.optimizedPath }),
    ...(profileFolder !== undefined && o.keepGraph ? { optimizedModelFilePath: join(profileFolder, GRAPH) } : {}),
    ...(profileFolder === undefined ? {} : { enableProfiling: true, profileFilePrefix: join(profileFolder, "p") }),
  };
  let session: ort.InferenceSession;
  try {
    session =
      typeof model === "string" ? await ort.InferenceSession.create(model, options) : await ort.InferenceSession.create(model, options);
  } catch (e) {
    if (profileFolder !== undefined) rmSync(profileFolder, { recursive: true, force: true });
    throw refuse(label, o, e);
  }
  const inputs = infos(session.inputMetadata);
  const outputs = infos(session.outputMetadata);
  const foreign = [...inputs, ...outputs].filter((x) => !CARRIED.has(x.dtype));
  if (foreign.length > 0) {
    await session.release();
    throw new QcError({ code: "runtime/unsupported-io", label, values: foreign.map((x) => x.name), dtype: foreign[0]!.dtype });
  }
  return { session, label, inputs, outputs, state: o.state ?? {}, carried: new Map(), profileFolder };
}

function refuse(label: string, o: SessionOptions, e: unknown): QcError {
  const message = messageOf(e);
  const type = /Unsupported data type: (\d+)/.exec(message);
  if (type) {
    const dtype = (Object.keys(DTYPES) as DType[]).find((d) => DTYPES[d].code === Number(type[1])) ?? `type ${type[1]}`;
    return new QcError({ code: "runtime/unsupported-io", label, values: [], dtype }, { cause: e });
  }
  const provider = o.provider ?? "cpu";
  if (provider !== "cpu" && /AppendExecutionProvider|shared library|backend not found|adapter|[Pp]rovider/.test(message))
    return new QcError({ code: "runtime/no-provider", provider, available: providers(), message: clean(message) }, { cause: e });
  return new QcError(loadDiagnostic(label, message), { cause: e });
}

function providers(): string[] {
  return ort.listSupportedBackends().map((b) => b.name);
}

/** Tensors only: sequences, maps and optionals cannot leave either, and are not fetched. */
function infos(metadata: readonly ort.InferenceSession.ValueMetadata[]): IoInfo[] {
  const out: IoInfo[] = [];
  for (const m of metadata) {
    if (m.isTensor) out.push({ name: m.name, dtype: m.type as DType, dims: m.shape.map((d) => (d === "" || d === undefined ? "?" : d)) });
  }
  return out;
}

function toOrt(o: Open, feeds: Feeds): Record<string, ort.Tensor> {
  const known = () => o.inputs.map((i) => `${i.name} (${i.dtype}[${i.dims.join(",")}])`);
  const out: Record<string, ort.Tensor> = {};
  for (const info of o.inputs) {
    const t = feeds[info.name];
    const bad = (detail: string) => new QcError({ code: "runtime/bad-feed", label: o.label, input: info.name, detail, known: known() });
    if (t === undefined) {
      const kept = o.carried.get(info.name);
      if (kept === undefined) throw bad("no tensor was given");
      out[info.name] = kept;
      continue;
    }
    if (t.dtype !== info.dtype) throw bad(`${t.dtype} was given, ${info.dtype} is expected`);
    out[info.name] = ortTensor(t, bad);
  }
  for (const name of Object.keys(feeds)) {
    if (!Object.hasOwn(out, name))
      throw new QcError({ code: "runtime/bad-feed", label: o.label, input: name, detail: "the model has no such input", known: known() });
  }
  return out;
}

/** Newer Node has Float16Array, and onnxruntime then wants it; bit patterns stay what they are. */
function ortTensor(t: Tensor, bad: (detail: string) => QcError): ort.Tensor {
  try {
    const half = (globalThis as { Float16Array?: new (b: ArrayBufferLike, o: number, n: number) => ArrayLike<number> }).Float16Array;
    if (t.dtype === "float16" && half !== undefined) {
      const d = t.data as Uint16Array;
      return new ort.Tensor("float16", new half(d.buffer, d.byteOffset, d.length) as unknown as Uint16Array, t.dims);
    }
    return new ort.Tensor(t.dtype as "float32", t.data as Float32Array, t.dims);
  } catch (e) {
    throw bad(messageOf(e));
  }
}

function fromOrt(t: ort.Tensor): Tensor {
  const data = t.data as TensorArray;
  if (t.type === "float16" && !(data instanceof Uint16Array)) {
    const d = data as Float32Array;
    return { dtype: "float16", dims: t.dims, data: new Uint16Array(d.buffer, d.byteOffset, d.length) };
  }
  return { dtype: t.type as DType, dims: t.dims, data };
}

async function run(o: Open, feeds: Feeds, fetches: readonly string[] | undefined): Promise<Record<string, Tensor>> {
  const names = fetches ?? o.outputs.map((x) => x.name);
  for (const name of names) {
    if (!o.outputs.some((x) => x.name === name))
      throw new QcError({ code: "runtime/no-output", label: o.label, output: name, known: o.outputs.map((x) => x.name) });
  }
  const given = toOrt(o, feeds);
  const back = Object.entries(o.state);
  const all = back.length === 0 ? names : [...new Set([...names, ...back.map(([, from]) => from)])];
  let result: ort.InferenceSession.OnnxValueMapType;
  try {
    result = await o.session.run(given, all);
  } catch (e) {
    throw new QcError(runDiagnostic(o.label, messageOf(e)), { cause: e });
  }
  const out: Record<string, Tensor> = {};
  for (const name of names) out[name] = fromOrt(result[name] as ort.Tensor);
  for (const [input, from] of back) {
    const t = result[from] as ort.Tensor;
    // The buffer of an output may be moved to the other thread: what is fed back is a copy.
    o.carried.set(input, new ort.Tensor(t.type as "float32", (t.data as Float32Array).slice(), t.dims));
  }
  return out;
}

async function time(o: Open, feeds: Feeds, repeats: number): Promise<number[]> {
  const given = toOrt(o, feeds);
  const names = o.outputs.map((x) => x.name);
  const out: number[] = [];
  try {
    for (let i = 0; i < repeats; i++) {
      const start = performance.now();
      await o.session.run(given, names);
      out.push(performance.now() - start);
    }
  } catch (e) {
    throw new QcError(runDiagnostic(o.label, messageOf(e)), { cause: e });
  }
  return out;
}

async function release(o: Open): Promise<void> {
  await o.session.release();
  if (o.profileFolder !== undefined) rmSync(o.profileFolder, { recursive: true, force: true });
}

const GRAPH = "graph.onnx";

function optimized(o: Open): Uint8Array {
  if (o.profileFolder === undefined) throw new Error("internal: the session was opened without `profile`");
  return new Uint8Array(readFileSync(join(o.profileFolder, GRAPH)));
}

function profile(o: Open): ReturnType<typeof parseProfile> {
  if (o.profileFolder === undefined) throw new Error("internal: the session was opened without `profile`");
  o.session.endProfiling();
  const folder = o.profileFolder;
  o.profileFolder = undefined;
  const texts = readdirSync(folder)
    .filter((f) => f !== GRAPH)
    .map((f) => readFileSync(join(folder, f), "utf8"));
  rmSync(folder, { recursive: true, force: true });
  return texts.flatMap(parseProfile);
}

function sessionOf(id: number): Open {
  const o = sessions.get(id);
  if (o === undefined) throw new Error("internal: the session was released");
  return o;
}
function foldOf(id: number): { readonly fold: Fold; readonly of: Open } {
  const f = folds.get(id);
  if (f === undefined) throw new Error("internal: the fold has ended");
  return f;
}

async function handle(r: Request): Promise<unknown> {
  switch (r.op) {
    case "open": {
      const o = await open(r.model, r.options);
      sessions.set(r.session, o);
      return { inputs: o.inputs, outputs: o.outputs } satisfies Opened;
    }
    case "run":
      return run(sessionOf(r.session), r.feeds, r.fetches);
    case "time":
      return time(sessionOf(r.session), r.feeds, r.repeats);
    case "fold-start": {
      const exports = (await import(r.spec.module)) as Record<string, unknown>;
      const make = exports[r.spec.name];
      if (typeof make !== "function") throw new Error(`internal: "${r.spec.module}" exports no function "${r.spec.name}"`);
      folds.set(r.fold, { fold: (await make(r.spec.args)) as Fold, of: sessionOf(r.session) });
      return undefined;
    }
    case "fold-feed": {
      const { fold, of } = foldOf(r.fold);
      const outputs = await run(of, r.feeds, undefined);
      fold.update(outputs, r.feeds, r.index);
      dropped.add(outputs);
      dropped.add(r.feeds);
      return undefined;
    }
    case "fold-finish": {
      const { fold } = foldOf(r.fold);
      folds.delete(r.fold);
      return fold.finish();
    }
    case "fold-drop":
      folds.delete(r.fold);
      return undefined;
    case "profile":
      return profile(sessionOf(r.session));
    case "optimized":
      return optimized(sessionOf(r.session));
    case "release": {
      const o = sessionOf(r.session);
      sessions.delete(r.session);
      return release(o);
    }
    case "versions":
      return { onnxruntime: ort.env.versions.node ?? "", providers: providers() };
    default:
      throw new Error(`internal: unknown request ${(r satisfies never as Request).op}`);
  }
}

function messageOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}

function failure(id: number, e: unknown): Response {
  if (e instanceof QcError) return { id, ok: false, diagnostics: e.diagnostics };
  return { id, ok: false, message: messageOf(e), stack: e instanceof Error ? e.stack : undefined };
}

const port = parentPort;
if (port === null) throw new Error("internal: runtime/worker is a thread of its own");
const words = new Int32Array(workerData as SharedArrayBuffer);

function idle(): void {
  Atomics.store(words, BUSY, 0);
  Atomics.notify(words, BUSY);
}

async function answer(r: Request): Promise<void> {
  Atomics.store(words, BUSY, 1);
  if (Atomics.load(words, STOP) === 1) return idle();
  try {
    const value = await handle(r);
    port!.postMessage({ id: r.id, ok: true, value } satisfies Response, buffersIn(value));
  } catch (e) {
    port!.postMessage(failure(r.id, e));
  } finally {
    idle();
  }
}

let tail: Promise<void> = Promise.resolve();
port.on("message", (r: Request) => {
  tail = tail.then(() => answer(r));
});
idle();
