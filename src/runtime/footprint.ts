import { type ChildProcess, fork } from "node:child_process";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { QcError } from "../diagnostics.ts";
import { compiledUrl } from "./protocol.ts";
import type { Feeds, SessionOptions } from "./types.ts";

export interface FootprintJob {
  readonly model: string | Uint8Array;
  readonly options: SessionOptions;
  readonly feeds: Feeds;
  readonly repeats: number;
}
export interface Footprint {
  /** Most memory that a process held that loaded the model and ran it, in bytes. */
  readonly peakBytes: number;
  /** What it held with the engine loaded and no model. */
  readonly emptyBytes: number;
  readonly loadMs: number;
}

/** Loads and runs a model in a process of its own: only there is the peak the model's. */
export function footprint(job: FootprintJob, signal?: AbortSignal): Promise<Footprint> {
  const file = fileURLToPath(new URL(compiledUrl(import.meta.url).replace(/footprint\.js$/, "footprint-child.js")));
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(file, [], { serialization: "advanced", execArgv: [], stdio: ["ignore", "ignore", "ignore", "ipc"] });
    const stop = () => child.kill("SIGKILL");
    signal?.addEventListener("abort", stop, { once: true });
    let answer: Footprint | { readonly error: string } | undefined;
    child.on("message", (m) => {
      answer = m as typeof answer;
    });
    child.on("error", reject);
    child.on("exit", (code) => {
      signal?.removeEventListener("abort", stop);
      if (answer !== undefined && "peakBytes" in answer) resolve(answer);
      else reject(new QcError({ code: "runtime/worker-died", message: answer?.error ?? `exit code ${code}` }));
    });
    child.send(job);
  });
}

/** Share of all cores that was busy since `start()`, whoever used them. */
export function cpuUse(): () => number {
  const read = () => {
    let busy = 0;
    let all = 0;
    for (const { times } of cpus()) {
      const sum = times.user + times.nice + times.sys + times.irq + times.idle;
      all += sum;
      busy += sum - times.idle;
    }
    return { busy, all };
  };
  const before = read();
  return () => {
    const now = read();
    return now.all === before.all ? 0 : (now.busy - before.busy) / (now.all - before.all);
  };
}
