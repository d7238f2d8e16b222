import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { saveModel } from "../../src/graph/onnx/index.ts";
import { writeNpy } from "../../src/io/npy.ts";
import { freshFolder, qc, smallData, smallNet } from "./qc.ts";

interface PlanFile {
  readonly sites: readonly { readonly kind: string; readonly value: string; readonly scale: readonly number[] }[];
}

test("statistics to a TensorRT cache, and a plan from the cache alone", async () => {
  const folder = freshFolder();
  const at = (name: string) => join(folder, name);
  saveModel(smallNet(), at("net.onnx"));
  writeFileSync(at("x.npy"), writeNpy({ dtype: "float32", shape: [8, 2, 6, 6], data: smallData(8) }));
  const calibrated = await qc(["calibrate", at("net.onnx"), "--data", at("x.npy"), "-o", at("net.stats")]);
  expect(calibrated.stderr + calibrated.stdout).not.toContain("✘");
  expect((await qc(["stats", "table", at("net.stats"), "--calibrator", "minmax", "-o", at("c.cache")])).code).toBe(0);
  const cache = readFileSync(at("c.cache"), "utf8");
  expect(cache).toMatch(/^TRT-8600-EntropyCalibration2\n(.+: [0-9a-f]{8}\n)+$/);
  const planned = await qc(["plan", at("net.onnx"), "--table", at("c.cache"), "--target", "tensorrt", "-o", at("plan.json")]);
  expect(planned.code).toBe(0);
  const plan = JSON.parse(readFileSync(at("plan.json"), "utf8")) as PlanFile;
  const sites = plan.sites.filter((s) => s.kind === "static");
  expect(sites.map((s) => s.value)).toEqual(["x", "r"]);
  for (const s of sites) {
    const hex = new RegExp(`^${s.value}: ([0-9a-f]{8})$`, "m").exec(cache)![1]!;
    const scale = new DataView(Uint8Array.from(Buffer.from(hex, "hex")).buffer).getFloat32(0);
    // scale · 127 / 127, each rounded to float32.
    expect(Math.abs(s.scale[0]! / scale - 1)).toBeLessThan(2 ** -22);
  }
});

test("a table of another model is said to be one; what has no range stays float", async () => {
  const folder = freshFolder();
  const [net, table] = [join(folder, "net.onnx"), join(folder, "t.txt")];
  saveModel(smallNet(), net);
  writeFileSync(table, "x 1.0\nother 2.0\n");
  const r = await qc(["plan", net, "--table", table, "-t", "tensorrt", "-o", join(folder, "plan.json")]);
  expect(r.code).toBe(0);
  expect(r.stderr).toContain("calibrate/table-names");
  const plan = JSON.parse(readFileSync(join(folder, "plan.json"), "utf8")) as PlanFile & { skips: { node: string; code: string }[] };
  expect(plan.sites.filter((s) => s.kind === "static").map((s) => s.value)).toEqual(["x"]);
  expect(plan.skips).toContainEqual(expect.objectContaining({ node: "conv2", code: "no-stats" }));
});
