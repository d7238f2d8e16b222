import { newModel } from "../../graph/ir.ts";
import { writeModel } from "../../graph/onnx/index.ts";
import { tensorType } from "../../graph/types.ts";
import { createRuntime } from "../../runtime/index.ts";
import { cpuFlags, machineInfo } from "../../runtime/machine.ts";
import type { Runtime } from "../../runtime/types.ts";
import { TOOL } from "../../version.ts";
import type { Context, ExitCode } from "../command.ts";
import { table } from "../print.ts";

/** What each instruction set means for 8-bit products, best first. Source: onnxruntime's MLAS dispatch (onnxruntime/core/mlas/lib/platform.cpp). */
const INSTRUCTIONS = [
  { flags: ["avx512_vnni"], name: "AVX512-VNNI", means: "uint8 x int8 products are exact and fast" },
  { flags: ["avx_vnni"], name: "AVX-VNNI", means: "uint8 x int8 products are exact and fast" },
  { flags: ["i8mm"], name: "Arm I8MM", means: "8-bit products are exact and fast" },
  { flags: ["asimddp"], name: "Arm dot product", means: "8-bit products are exact and fast" },
  { flags: ["avx512bw"], name: "AVX512 without VNNI", means: "uint8 x int8 products saturate 16-bit sums: int8 weights may need 7 bits" },
  { flags: ["avx2"], name: "AVX2", means: "uint8 x int8 products saturate 16-bit sums: int8 weights may need 7 bits" },
] as const;

/** A provider that is compiled in may still lack its driver or libraries: each opens a model of one node. */
async function usableProviders(runtime: Runtime, signal: AbortSignal): Promise<readonly string[]> {
  const model = newModel(13, 8);
  const x = model.graph.addInput("x", tensorType("float32", [1]));
  const y = model.graph.append({ op: "Neg", inputs: [x], outputs: ["y"] }).outputs[0]!;
  model.graph.setType(y, tensorType("float32", [1]));
  model.graph.addOutput(y);
  const bytes = writeModel(model);
  const usable: string[] = [];
  for (const provider of ["cpu", "cuda", "webgpu"] as const) {
    try {
      const session = await runtime.open(bytes, { provider });
      await session.run({ x: { dtype: "float32", dims: [1], data: new Float32Array([1]) } });
      await session.release();
      usable.push(provider);
    } catch {
      signal.throwIfAborted();
    }
  }
  return usable;
}

export async function run(c: Context<Record<never, never>>): Promise<ExitCode> {
  const machine = machineInfo();
  const flags = cpuFlags();
  const runtime = createRuntime({ signal: c.signal });
  const versions = await runtime.versions();
  const usable = await usableProviders(runtime, c.signal);
  await runtime.close();
  const found = INSTRUCTIONS.find((i) => i.flags.every((f) => flags?.has(f)));
  const what = flags === undefined ? "not known on this system" : (found?.means ?? "no 8-bit dot product: int8 is for size, not for speed");
  const accelerators = usable.filter((p) => p !== "cpu");
  const follows = [
    found?.name.includes("VNNI") || found?.name.startsWith("Arm")
      ? "--target ort-cpu runs 8-bit products in integer kernels; measure with the latency line of the report."
      : "--target ort-cpu is legal here, but may be no faster than float; the file is smaller.",
    accelerators.length > 0
      ? `--provider ${accelerators[0]} can run calibration and verification.`
      : "Calibration and verification run on the CPU; models for tensorrt are made here and built where the GPU is.",
  ];
  c.print.document({
    ok: true,
    tool: TOOL,
    machine,
    onnxruntime: versions.onnxruntime,
    providers: { built: versions.providers, usable },
    instructions: found?.name ?? null,
    follows,
  });
  c.print.out(
    table([
      ["qc", TOOL],
      ["node", machine.node],
      ["onnxruntime", versions.onnxruntime],
      ["providers", `${usable.join(", ")} usable; built for ${versions.providers.join(", ")}`],
      ["platform", `${machine.platform} ${machine.arch}`],
      ["cpu", machine.cpu],
      ["threads", String(machine.cores)],
      ["8-bit", found === undefined ? what : `${found.name}: ${what}`],
    ]),
  );
  for (const line of follows) c.print.out(`  → ${line}`);
  return 0;
}
