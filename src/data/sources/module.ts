import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { deserialize, serialize } from "node:v8";
import { QcError } from "../../diagnostics.ts";
import { ARRAY_DTYPE } from "../../graph/tensor.ts";
import { type DType, elementCount } from "../../quant/dtype.ts";
import { describe, type Fields, type Item, type TensorItem } from "../item.ts";
import type { ScoreModule } from "../metrics/index.ts";
import type { Label, Role } from "../types.ts";
import { digestFile } from "./files.ts";
import type { Source } from "./types.ts";
import { nested } from "./values.ts";

/** What `samples()` yields: the inputs by name, as tensors, typed arrays with `dims`, or nested lists. */
interface Yielded {
  readonly feeds: Readonly<Record<string, unknown>>;
  readonly id?: string;
  readonly label?: Label;
  readonly role?: Role;
  readonly sequence?: number | string;
  readonly file?: string;
}
interface Loader extends ScoreModule {
  readonly samples?: () => AsyncIterable<Yielded> | Iterable<Yielded>;
}
interface Held {
  readonly id: string;
  readonly role: Role | undefined;
  readonly sequence: number | string | undefined;
  readonly file: string | undefined;
  readonly label: Label | undefined;
  readonly at: number;
  readonly length: number;
}

/** Samples beyond this many bytes wait in a temporary file: a generator runs once, and a set is read in any order, more than once. */
const IN_MEMORY = 64 * 1024 ** 2;

/** Form 5: a module with `export async function* samples()`. */
export async function openModule(path: string): Promise<Source> {
  const bad = (detail: string, cause?: unknown) =>
    new QcError({ code: "data/module", module: path, detail }, cause === undefined ? undefined : { cause });
  let m: Loader;
  try {
    m = (await import(pathToFileURL(path).href)) as Loader;
  } catch (e) {
    throw bad((e as Error).message, e);
  }
  if (typeof m.samples !== "function") throw bad("it exports no function `samples`");
  const held: Held[] = [];
  const store = new Store();
  let fields = new Map<string, string>();
  let size = 0;
  try {
    for await (const y of m.samples()) {
      const id = y?.id ?? String(size);
      if (typeof y?.feeds !== "object" || y.feeds === null) throw bad(`sample ${id} has no \`feeds\``);
      const items: Record<string, TensorItem> = {};
      for (const [name, value] of Object.entries(y.feeds)) {
        const item = itemOf(value);
        if (item === undefined) throw bad(`"${name}" of sample ${id} is no tensor: { dtype, dims, data }, nested lists, or a number`);
        items[name] = item;
      }
      if (size === 0) fields = new Map(Object.entries(items).map(([n, t]) => [n, describe(t.dtype, t.dims)]));
      held.push({ id, role: y.role, sequence: y.sequence, file: y.file, label: y.label, ...store.put(items) });
      size++;
    }
  } catch (e) {
    store.close();
    if (e instanceof QcError) throw e;
    throw bad((e as Error).message, e);
  }
  const labels = held.map((h) => h.label);
  const keys = [...fields.keys()];
  return {
    label: path,
    size,
    fields,
    main: keys.length === 1 ? keys[0] : undefined,
    id: (i) => held[i]!.id,
    record: (i) => store.get(held[i]!) as Fields,
    file: (i) => held[i]!.file,
    labelOf: (i) => labels[i],
    classes: () => (labels.every((l) => Number.isInteger(l)) ? (labels as number[]) : undefined),
    roles: held.some((h) => h.role !== undefined) ? held.map((h) => h.role) : undefined,
    sequences: held.some((h) => h.sequence !== undefined) ? sequenceNumbers(held) : undefined,
    async metric() {
      const { metricFrom } = await import("../metrics/index.ts");
      return metricFrom(m, path, {});
    },
    digest(h) {
      digestFile(h, path);
      for (const x of held) h.update(store.bytes(x));
    },
  };
}

/** Neighbours with the same `sequence` are one; a name that comes back later begins anew. */
function sequenceNumbers(held: readonly Held[]): number[] {
  let n = -1;
  return held.map((h, i) => (i > 0 && h.sequence !== undefined && h.sequence === held[i - 1]!.sequence ? n : ++n));
}

function itemOf(value: unknown): TensorItem | undefined {
  if (ArrayBuffer.isView(value)) return itemOf({ data: value });
  if (typeof value !== "object" || value === null || !("data" in value)) return nested(value);
  const t = value as { readonly data: TensorItem["data"]; readonly dims?: readonly number[]; readonly dtype?: DType };
  const dtype = t.dtype ?? (Array.isArray(t.data) ? "string" : ARRAY_DTYPE.get((t.data as object)?.constructor));
  const dims = t.dims ?? [t.data?.length];
  if (dtype === undefined || !dims.every((d) => Number.isInteger(d) && d! >= 0) || elementCount(dims as number[]) !== t.data.length)
    return undefined;
  return { kind: "tensor", dtype, dims: dims as number[], data: t.data };
}

/** Records in memory, then in a file of the system's temporary folder, which goes when the process does. */
class Store {
  readonly #kept: Uint8Array[] = [];
  #bytes = 0;
  #fd: number | undefined;
  #end = 0;
  #folder: string | undefined;

  put(items: Readonly<Record<string, Item>>): { readonly at: number; readonly length: number } {
    const b = serialize(items);
    if (this.#bytes + b.byteLength <= IN_MEMORY) {
      this.#bytes += b.byteLength;
      this.#kept.push(b);
      return { at: -this.#kept.length, length: b.byteLength };
    }
    if (this.#fd === undefined) {
      this.#folder = mkdtempSync(join(tmpdir(), "qc-samples-"));
      this.#fd = openSync(join(this.#folder, "samples"), "wx+", 0o600);
      process.once("exit", () => this.close());
    }
    const at = this.#end;
    for (let done = 0; done < b.byteLength; ) done += writeSync(this.#fd, b, done, b.byteLength - done, at + done);
    this.#end += b.byteLength;
    return { at, length: b.byteLength };
  }

  bytes(h: { readonly at: number; readonly length: number }): Uint8Array {
    if (h.at < 0) return this.#kept[-h.at - 1]!;
    const b = Buffer.alloc(h.length);
    for (let done = 0; done < h.length; ) {
      const n = readSync(this.#fd!, b, done, h.length - done, h.at + done);
      if (n === 0) throw new Error("internal: the store of samples ended early");
      done += n;
    }
    return b;
  }

  get(h: { readonly at: number; readonly length: number }): Readonly<Record<string, Item>> {
    return deserialize(this.bytes(h)) as Readonly<Record<string, Item>>;
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true });
  }
}
