import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { QcError } from "../../src/diagnostics.ts";
import { diffPlans } from "../../src/plan/diff.ts";
import { decodePlan, encodePlan, parsePlan, planText, readPlan, writePlan } from "../../src/plan/io.ts";
import { printPlanSchema } from "../../src/plan/schema.ts";
import type { PlanBundle } from "../../src/plan/types.ts";
import { createRuntime, type NodeRuntime } from "../../src/runtime/index.ts";
import { planned, residualNet } from "./nets.ts";

let runtime: NodeRuntime;
let bundle: PlanBundle;
const folder = mkdtempSync(join(tmpdir(), "qc-plan-"));
beforeAll(async () => {
  runtime = createRuntime();
  bundle = (await planned(runtime, residualNet(), "ort-cpu")).bundle;
});
afterAll(async () => {
  await runtime.close();
  rmSync(folder, { recursive: true });
});

const fails = (f: () => unknown): string => {
  try {
    f();
  } catch (e) {
    expect(e).toBeInstanceOf(QcError);
    return (e as QcError).message;
  }
  throw new Error("no error");
};
/** The document with one piece of text replaced. */
const edited = (from: string | RegExp, to: string): string => {
  const json = planText(bundle);
  const out = json.replace(from, to);
  expect(out).not.toBe(json);
  return out;
};

test("a plan is read as it was written, and written as it was read", () => {
  const path = join(folder, "net.plan.json");
  const files = writePlan(bundle, path);
  expect(files).toEqual([join(folder, "net.plan.tensors"), path]);
  const back = readPlan(path);
  expect(diffPlans(bundle, back)).toEqual([]);
  const again = join(folder, "again.json");
  writePlan(back, again);
  expect(readFileSync(join(folder, "again.tensors"))).toEqual(readFileSync(files[0]!));
  expect(readFileSync(again, "utf8")).toBe(readFileSync(path, "utf8").replace("net.plan.tensors", "again.tensors"));
});

test("one line for each site and skip", () => {
  const lines = planText(bundle).split("\n");
  expect(lines.filter((l) => l.includes('"kind"'))).toHaveLength(bundle.plan.sites.length);
});

test("the published schema is the one that plans are checked against", () => {
  expect(readFileSync(resolve(import.meta.dirname, "../../docs/plan.schema.json"), "utf8")).toBe(printPlanSchema());
});

test("hostile documents: each error names the place", () => {
  expect(fails(() => parsePlan('{\n "schema": "qc.plan/1",\n "tool": }'))).toContain("line 3");
  expect(fails(() => parsePlan("[]"))).toContain("must be object");
  expect(fails(() => parsePlan(edited('"seed": 0', '"seed": "0"')))).toContain("/seed");
  expect(fails(() => parsePlan(edited('"seed": 0', '"seed": 0, "sead": 1')))).toContain('"sead"');
  expect(fails(() => parsePlan(edited('"dtype": "uint8"', '"dtype": "uint9"')))).toContain("/sites/0/scheme/dtype");
  expect(fails(() => parsePlan(edited(/"scale": \[[^\]]*\]/, '"scale": []')))).toContain("/sites/0/scale");
  expect(fails(() => parsePlan(edited("qc.plan/1", "qc.plan/9")))).toContain("/schema");
  expect(fails(() => parsePlan(edited(/"file": "[^"]*"/, '"file": "../x.tensors"')))).toContain("/tensors/file");
});

test("tensors that are missing, foreign or changed are refused", () => {
  const { json, tensors } = encodePlan(bundle, "t.tensors");
  const bytes = Uint8Array.from(tensors!.flatMap((t) => [...t]));
  expect(diffPlans(bundle, decodePlan(json, bytes))).toEqual([]);
  const changed = bytes.slice();
  changed[bytes.length >> 1]! ^= 1;
  expect(fails(() => decodePlan(json, changed))).toContain("is not the file that the plan was written with");
  expect(fails(() => decodePlan(json, undefined))).toContain("is not the file");
  expect(fails(() => decodePlan(json.replace('"tensor": "w0000.scale"', '"tensor": "w9999.scale"'), bytes))).toContain(
    'plan.tensors has no "w9999.scale"',
  );
  const path = join(folder, "alone.json");
  writeFileSync(path, json);
  expect(fails(() => readPlan(path))).toContain("t.tensors");
});

test("a difference names the site, and counts what changed in its tensors", () => {
  const [site, ...rest] = bundle.plan.sites;
  if (site?.kind !== "static") throw new Error("the first site is static");
  const other: PlanBundle = {
    ...bundle,
    plan: { ...bundle.plan, seed: 1, sites: [{ ...site, scale: [1] }, ...rest.slice(1)], skips: bundle.plan.skips.slice(1) },
  };
  const d = diffPlans(bundle, other).map((x) => `${x.kind} ${x.what} ${x.at}`);
  expect(d).toContain("changed seed seed");
  expect(d).toContain(`changed site ${site.value}`);
  expect(d).toContain(`removed site ${rest[0]!.value}`);
});
