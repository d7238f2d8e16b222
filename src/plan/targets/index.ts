import { QcError } from "../../diagnostics.ts";
import { nearest } from "../nearest.ts";
import { TARGET_NAMES, type Target, type TargetName } from "../target.ts";
import { ORT_CPU } from "./ort-cpu.ts";
import { ORT_CUDA, ORT_WEBGPU } from "./ort-gpu.ts";
import { PORTABLE } from "./portable.ts";
import { tensorrt } from "./tensorrt.ts";

const TENSORRT_VERSIONS = ["8.6", "10", "10.8", "10.12", "11"];
const TENSORRT_ARCHS = ["sm75", "sm80", "sm86", "sm87", "sm89", "sm90", "sm100", "sm103", "sm120", "sm121"];

/** The table of a target: `name`, `name@version`, `name@version:arch` or `name:arch`. An unknown name, version or architecture is an error. */
export function targetOf(spec: string): Target {
  const m = /^([^@:]*)(?:@([^:]*))?(?::(.*))?$/.exec(spec);
  const name = m?.[1] ?? spec;
  const version = m?.[2];
  const arch = m?.[3];
  if (!isTargetName(name)) throw unknown(spec, "target", name, TARGET_NAMES);
  if (name !== "tensorrt") {
    if (version !== undefined) throw unknown(spec, `version of ${name}`, version, []);
    if (arch !== undefined) throw unknown(spec, `architecture of ${name}`, arch, []);
  }
  switch (name) {
    case "portable":
      return PORTABLE;
    case "ort-cpu":
      return ORT_CPU;
    case "ort-cuda":
      return ORT_CUDA;
    case "ort-webgpu":
      return ORT_WEBGPU;
    case "tensorrt":
      if (version !== undefined && !TENSORRT_VERSIONS.includes(version))
        throw unknown(spec, "version of tensorrt", version, TENSORRT_VERSIONS);
      if (arch !== undefined && !TENSORRT_ARCHS.includes(arch)) throw unknown(spec, "architecture of tensorrt", arch, TENSORRT_ARCHS);
      return tensorrt(version, arch);
    default:
      return name satisfies never;
  }
}

function isTargetName(name: string): name is TargetName {
  return (TARGET_NAMES as readonly string[]).includes(name);
}

function unknown(spec: string, what: string, given: string, known: readonly string[]): QcError {
  return new QcError({ code: "plan/unknown-target", spec, what, given, known, nearest: nearest(given, known) }, { exitCode: 2 });
}
