import { expect, test } from "vitest";
import { COMMANDS } from "../../src/cli/commands.ts";
import { parseArguments } from "../../src/cli/parser.ts";
import { QcError } from "../../src/diagnostics.ts";
import { COMMON, flagOf, nearest, type Options, QUANTIZE, schemaOf } from "../../src/options.ts";

const parse = (line: string) => {
  const p = parseArguments(line.split(" "));
  if (p.kind !== "run") throw new Error("help");
  return p;
};
const refusal = (line: string) => {
  try {
    parse(line);
  } catch (e) {
    if (e instanceof QcError) return e;
    throw e;
  }
  throw new Error(`accepted: ${line}`);
};

test("options get the types and defaults of the table", () => {
  const p = parse("quantize m.onnx -d set.yaml --skip head.* --skip a,op:Softmax --seed 7 --memory 1.5GB --verify-samples 10 --json");
  expect(p.args).toEqual(["m.onnx"]);
  expect(p.options).toMatchObject({
    data: "set.yaml",
    skip: ["head.*", "a", "op:Softmax"],
    seed: 7,
    memory: 1.5e9,
    verifySamples: 10,
    target: "portable",
    effort: "default",
    dryRun: false,
  });
  expect(p.common).toEqual({ json: true, quiet: false });
});

test("two-word commands win over the command of their first word", () => {
  expect(parse("plan diff a b").name).toBe("plan diff");
  expect(parse("plan m.onnx --stats s").name).toBe("plan");
  expect(parse("stats merge a b c -o d").args).toEqual(["a", "b", "c"]);
});

test("values may carry a version or an argument", () => {
  expect(parse("quantize m.onnx --target tensorrt@8.6:sm89 --calibrator percentile=99.99").options).toMatchObject({
    target: "tensorrt@8.6:sm89",
    calibrator: "percentile=99.99",
  });
});

test.each([
  ["quantize m.onnx --traget ort-cpu", "cli/unknown-option", "--target"],
  ["quantise m.onnx", "cli/unknown-command", "quantize"],
  ["stats mrge a b", "cli/unknown-command", "stats merge"],
  ["quantize m.onnx --target tensort", "cli/unknown-value", "tensorrt"],
  ["quantize m.onnx --target tensorrt@", "cli/unknown-value", "tensorrt"],
  ["--verson", "cli/unknown-option", "--version"],
])("%s: %s, did you mean %s", (line, code, hint) => {
  const [d] = refusal(line).diagnostics;
  expect(d).toMatchObject({ code, nearest: hint });
});

test.each([
  ["quantize", "cli/missing-argument"],
  ["quantize a b", "cli/too-many-arguments"],
  ["quantize m.onnx --seed", "cli/missing-value"],
  ["quantize m.onnx --seed 1.5", "cli/bad-value"],
  ["quantize m.onnx --samples 0", "cli/bad-value"],
  ["quantize m.onnx --memory much", "cli/bad-value"],
  ["quantize m.onnx --seed 4GB", "cli/bad-value"],
])("%s is refused as %s with exit code 2", (line, code) => {
  const e = refusal(line);
  expect(e.diagnostics[0]!.code).toBe(code);
  expect(e.exitCode).toBe(2);
});

test("every command has a help page with an example that parses", () => {
  for (const [name, c] of Object.entries(COMMANDS)) {
    const help = parseArguments([...name.split(" "), "--help"]);
    expect(help.kind === "help" && help.text).toContain(c.examples[0]);
    for (const e of c.examples) {
      const words = e
        .split(/\s+[#>] /)[0]!
        .trim()
        .split(/\s+/)
        .slice(1)
        .map((w) => w.replace(/'/g, ""));
      expect(parseArguments(words), e).toMatchObject({ kind: "run", name });
    }
    for (const key of Object.keys(c.options)) expect(help.kind === "help" && help.text).toContain(`--${flagOf(key)}`);
  }
});

test("no option of a command hides a common one, and short names do not clash", () => {
  for (const c of Object.values(COMMANDS)) {
    const all = { ...c.options, ...COMMON } as Options;
    expect(Object.keys(all).length).toBe(Object.keys(c.options).length + Object.keys(COMMON).length);
    const shorts = Object.values(all).flatMap((o) => o.short ?? []);
    expect(new Set([...shorts, "h"]).size).toBe(shorts.length + 1);
  }
});

test("the schema refuses unknown keys and has every option", () => {
  expect(schemaOf(QUANTIZE)).toMatchObject({
    additionalProperties: false,
    properties: { samples: { type: "integer", minimum: 1 }, skip: { type: "array" }, effort: { enum: ["fast", "default", "best"] } },
  });
});

test("nearest: swaps and prefixes are near, strangers are not", () => {
  expect(nearest("--traget", ["--target", "--threads"])).toBe("--target");
  expect(nearest("perc", ["percentile", "entropy"])).toBe("percentile");
  expect(nearest("xyzzy", ["percentile", "entropy"])).toBeUndefined();
});
