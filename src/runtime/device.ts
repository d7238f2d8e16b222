import { execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { cpuUse } from "./footprint.ts";
import type { SessionOptions } from "./types.ts";

type Provider = NonNullable<SessionOptions["provider"]>;

/** How busy a device was, as far as the system tells: with a share, or with the reason why there is none. */
export interface DeviceUse {
  readonly share?: number;
  /** Where the figure comes from, or why there is none. */
  readonly from: string;
}

const SMI = "nvidia-smi";
const SAMPLE_MS = 200;
const PATIENCE_MS = 3000;
const CARDS = "/sys/class/drm";

/** Files in which a graphics driver (amdgpu, some others) counts its load, in percent. */
function busyFiles(): readonly string[] {
  return cardsOf("gpu_busy_percent");
}
function cardsOf(file: string): readonly string[] {
  try {
    return readdirSync(CARDS)
      .filter((c) => /^card[0-9]+$/.test(c))
      .map((c) => `${CARDS}/${c}/device/${file}`)
      .filter((f) => textOf(f) !== undefined);
  } catch {
    return [];
  }
}
function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** What stands behind a provider other than the CPU, as far as the system tells: times compare only on the same. */
export function deviceName(provider: Provider): string | undefined {
  if (provider === "cpu") return undefined;
  try {
    const names = execFileSync(SMI, ["--query-gpu=name", "--format=csv,noheader"], {
      timeout: PATIENCE_MS,
      stdio: ["ignore", "pipe", "ignore"],
    });
    const first = names.toString().trim().split("\n")[0];
    if (first !== undefined && first !== "") return `${provider} on ${first}`;
  } catch {
    // No such program, or no such driver: the card's numbers are next.
  }
  const card = cardsOf("vendor")[0];
  const ids = card === undefined ? undefined : [textOf(card), textOf(card.replace(/vendor$/, "device"))].join(":");
  return `${provider} on ${ids ?? "a device that the system does not name"}`;
}

/** Share of the device that was busy since the call, whoever used it: all cores, or the busiest graphics card. */
export function deviceUse(provider: Provider): () => DeviceUse {
  if (provider === "cpu") {
    const read = cpuUse();
    return () => ({ share: read(), from: "all cores" });
  }
  const files = busyFiles();
  const seen = new Map<string, { sum: number; n: number }>();
  const add = (card: string, percent: number) => {
    if (!Number.isFinite(percent)) return;
    const s = seen.get(card) ?? { sum: 0, n: 0 };
    seen.set(card, { sum: s.sum + percent, n: s.n + 1 });
  };
  const done = (from: string): DeviceUse => {
    const means = [...seen.values()].map((s) => s.sum / s.n / 100);
    return means.length === 0 ? { from: `${from} gave no figure` } : { share: Math.max(...means), from };
  };
  if (files.length > 0) {
    const timer = setInterval(() => {
      for (const f of files) add(f, Number(textOf(f) ?? Number.NaN));
    }, SAMPLE_MS).unref();
    return () => {
      clearInterval(timer);
      for (const f of files) add(f, Number(textOf(f) ?? Number.NaN));
      return done(`${CARDS}/*/device/gpu_busy_percent`);
    };
  }
  const child = spawn(SMI, ["--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", `--loop-ms=${SAMPLE_MS}`], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let missing = false;
  child.on("error", () => {
    missing = true;
  });
  child.unref();
  let rest = "";
  child.stdout.on("data", (b: Buffer) => {
    const lines = (rest + b.toString()).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const [card, percent] = line.split(",");
      add(card!.trim(), Number(percent));
    }
  });
  return () => {
    child.kill();
    return missing ? { from: `neither ${SMI} nor ${CARDS}/*/device/gpu_busy_percent is here` } : done(SMI);
  };
}
