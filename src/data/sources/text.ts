import { resolve } from "node:path";
import { QcError } from "../../diagnostics.ts";
import { readFile } from "../../io/source.ts";
import type { TextConfig } from "../config.ts";
import type { Fields, TensorItem } from "../item.ts";
import type { Source } from "./types.ts";

/** A document before tokens: its text and the fields beside it. */
interface Documents {
  readonly size: number;
  text(i: number): string | Promise<string>;
}

/** A token sequence as it is fed, and what each position should predict (−1: nothing). */
interface Sequence {
  readonly ids: readonly number[];
  readonly targets: readonly number[];
  /** Tokens that earlier samples of the sequence were fed. */
  readonly past?: number;
}

/**
 * Text as token ids. Fields: `ids`, `mask` (1 where there is a token), `positions`, `types` (zeros), `targets` (the next token at each
 * position, −1 where there is none), and the columns of the table that the text came from. With `windows: n` all documents are one stream:
 * a sample is fed `bos` and n − 1 tokens and predicts n; without `bos`, n tokens that predict all but the first.
 */
export async function textSource(base: Source | undefined, path: string, folder: string, c: TextConfig): Promise<Source> {
  const encode = await tokenizerOf(resolve(folder, c.tokenizer), c);
  const documents = base === undefined ? fileDocuments(path, c) : tableDocuments(base, c);
  if (c.decode && c.windows === undefined)
    throw new QcError({
      code: "data/config",
      file: path,
      line: undefined,
      at: "text.decode",
      detail: "needs `windows`: the tokens of one sequence",
    });
  const windows = c.windows === undefined ? undefined : await windowsOf(documents, encode, c, c.windows);
  const make = windows && c.decode ? windows.flatMap((w) => decoding(w, c.decode!.prefill)) : windows;
  const size = make?.length ?? documents.size;
  const names = ["ids", "mask", "positions", "types", "targets"];
  return {
    label: path,
    size,
    fields: new Map([...names.map((n) => [n, "int64[tokens]"] as const), ...(make === undefined ? (base?.fields ?? []) : [])]),
    main: "ids",
    sequences: windows && c.decode ? sequencesOf(make!) : undefined,
    id: (i) => (make === undefined && base !== undefined ? base.id(i) : String(i)),
    async record(i, wanted): Promise<Fields> {
      const own = sequenceFields(make?.[i] ?? sequenceOf(encode(await documents.text(i)), c), c);
      const others = make === undefined && base !== undefined ? await base.record(i, wanted) : {};
      return { ...others, ...own };
    },
    scalars: (field) => (make === undefined ? base?.scalars?.(field) : undefined),
    digest(h) {
      if (base !== undefined) base.digest(h);
      else h.update(readFile(path));
      h.update(readFile(resolve(folder, c.tokenizer)));
    },
    async prepare(wanted) {
      await base?.prepare?.(wanted);
    },
  };
}

type Encode = (text: string) => readonly number[];

async function tokenizerOf(path: string, c: TextConfig): Promise<Encode> {
  const { Tokenizer } = await import("@huggingface/tokenizers");
  try {
    const t = new Tokenizer(JSON.parse(new TextDecoder().decode(readFile(path))) as object, {});
    return (text) => t.encode(text, { add_special_tokens: c.special ?? false }).ids;
  } catch (e) {
    if (e instanceof QcError) throw e;
    throw new QcError(
      { code: "data/config", file: path, line: undefined, at: "", detail: `is no tokenizer.json: ${(e as Error).message}` },
      { cause: e },
    );
  }
}

function fileDocuments(path: string, c: TextConfig): Documents {
  const whole = new TextDecoder().decode(readFile(path));
  // One stream needs no documents; otherwise a line is one, unless a separator is named.
  const parts = c.split === undefined ? (c.windows === undefined ? whole.split("\n") : [whole]) : whole.split(c.split);
  const trimmed = c.windows !== undefined && c.split === undefined ? parts : parts.map((p) => p.trim());
  const kept = trimmed.filter((p) => p !== "" && p.length >= (c.least ?? 0));
  return { size: kept.length, text: (i) => kept[i]! };
}

function tableDocuments(base: Source, c: TextConfig): Documents {
  const field = c.field ?? "text";
  if (!base.fields.has(field)) throw new QcError({ code: "data/no-such-field", set: base.label, field, have: [...base.fields.keys()] });
  return {
    size: base.size,
    async text(i) {
      const item = (await base.record(i, [field]))[field];
      if (item?.kind !== "text")
        throw new QcError({ code: "data/sample-unreadable", set: base.label, sample: base.id(i), detail: `"${field}" is no text` });
      return item.text;
    },
  };
}

async function windowsOf(documents: Documents, encode: Encode, c: TextConfig, n: number): Promise<Sequence[]> {
  const stream: number[] = [];
  for (let i = 0; i < documents.size; i++) for (const id of encode(await documents.text(i))) stream.push(id);
  const out: Sequence[] = [];
  for (let at = 0; at + n <= stream.length; at += n) {
    const window = stream.slice(at, at + n);
    out.push(
      c.bos === undefined ? { ids: window, targets: [...window.slice(1), -1] } : { ids: [c.bos, ...window.slice(0, -1)], targets: window },
    );
  }
  return out;
}

/** A window step by step: `prefill` tokens at once, then each of the others behind those before it. */
function decoding(w: Sequence, prefill: number): Sequence[] {
  const first = Math.min(prefill, w.ids.length);
  const steps = Array.from({ length: w.ids.length - first }, (_, i) => first + i);
  return [
    { ids: w.ids.slice(0, first), targets: w.targets.slice(0, first) },
    ...steps.map((at) => ({ ids: [w.ids[at]!], targets: [w.targets[at]!], past: at })),
  ];
}

function sequencesOf(samples: readonly Sequence[]): number[] {
  let n = -1;
  return samples.map((s) => (s.past === undefined ? ++n : n));
}

/** One document: `bos` in front, cut to `truncate`. */
function sequenceOf(tokens: readonly number[], c: TextConfig): Sequence {
  const all = c.bos === undefined ? tokens : [c.bos, ...tokens];
  const ids = all.slice(0, c.truncate ?? c.pad?.length);
  return { ids, targets: [...ids.slice(1), -1] };
}

function sequenceFields(s: Sequence, c: TextConfig): Fields {
  const n = s.ids.length;
  const past = s.past ?? 0;
  const fill = Math.max(0, (c.pad?.length ?? 0) - n);
  const left = c.pad?.side === "left";
  const padded = (values: readonly number[], with_: number): TensorItem => {
    const extra = new Array<number>(fill).fill(with_);
    const all = left ? [...extra, ...values] : [...values, ...extra];
    return { kind: "tensor", dtype: "int64", dims: [all.length], data: BigInt64Array.from(all, BigInt) };
  };
  return {
    ids: padded(s.ids, c.pad?.id ?? 0),
    mask: padded(new Array<number>(past + n).fill(1), 0),
    positions: padded(
      s.ids.map((_, i) => past + i),
      0,
    ),
    types: padded(new Array<number>(n).fill(0), 0),
    targets: padded(s.targets, -1),
  };
}
