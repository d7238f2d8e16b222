import { readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";

/** What figures depend on; nothing here names the machine, its user or its files. */
export interface MachineInfo {
  readonly platform: string;
  readonly arch: string;
  readonly cpu: string;
  readonly cores: number;
  readonly node: string;
}

export function machineInfo(): MachineInfo {
  return {
    platform: process.platform,
    arch: process.arch,
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    node: process.versions.node,
  };
}

/** Instruction sets that decide how fast 8-bit products run. Undefined where the system does not tell (only Linux has /proc/cpuinfo). */
export function cpuFlags(): ReadonlySet<string> | undefined {
  try {
    const text = readFileSync("/proc/cpuinfo", "utf8");
    const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1];
    return line === undefined ? undefined : new Set(line.trim().split(/\s+/));
  } catch {
    return undefined;
  }
}

/** Most memory that the process has held at a time, in bytes. */
export function peakMemoryBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}
