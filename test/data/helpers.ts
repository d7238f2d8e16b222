import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, expect } from "vitest";
import { openData } from "../../src/data/index.ts";
import type { DataSet } from "../../src/data/types.ts";
import { type Diagnostic, QcError } from "../../src/diagnostics.ts";
import type { NdArray } from "../../src/io/npy.ts";
import { writeNpz } from "../../src/io/npz.ts";
import type { IoInfo } from "../../src/runtime/types.ts";

/** A folder that goes when the file's tests are done. */
export function scratch(): { readonly path: string; write(name: string, content: string | Uint8Array): string } {
  const path = mkdtempSync(join(tmpdir(), "qc-data-test-"));
  afterAll(() => rmSync(path, { recursive: true, force: true }));
  return {
    path,
    write(name, content) {
      const file = join(path, name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
      return file;
    },
  };
}

export function npz(arrays: Readonly<Record<string, NdArray>>, deflate = true): Uint8Array {
  return new Uint8Array(Buffer.concat(writeNpz(Object.entries(arrays), { deflate })));
}
export function f32(shape: readonly number[], value: (i: number) => number = (i) => i): NdArray {
  return { dtype: "float32", shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => value(i)) };
}
export function u8(shape: readonly number[], value: (i: number) => number = (i) => i & 255): NdArray {
  return { dtype: "uint8", shape, data: Uint8Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => value(i)) };
}
export function i64(values: readonly number[]): NdArray {
  return { dtype: "int64", shape: [values.length], data: BigInt64Array.from(values, BigInt) };
}
export function input(dims: readonly (number | string)[], name = "input", dtype: IoInfo["dtype"] = "float32"): IoInfo {
  return { name, dtype, dims };
}

export async function opened(spec: string, inputs: readonly IoInfo[], seed = 0): Promise<{ set: DataSet; told: Diagnostic[] }> {
  const told: Diagnostic[] = [];
  const set = await openData(spec, inputs, { seed, report: (d) => told.push(d) });
  return { set, told };
}

export async function refused(p: Promise<unknown>): Promise<QcError> {
  const e = await p.then(
    () => undefined,
    (x: unknown) => x,
  );
  expect(e).toBeInstanceOf(QcError);
  return e as QcError;
}
