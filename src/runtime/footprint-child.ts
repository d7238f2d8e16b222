import type { Footprint, FootprintJob } from "./footprint.ts";
import { createRuntime } from "./index.ts";

const peak = () => process.resourceUsage().maxRSS * 1024;

process.once("message", async (job: FootprintJob) => {
  const answer = await measure(job).catch((e: unknown) => ({ error: e instanceof Error ? e.message : String(e) }));
  process.send!(answer, () => process.exit(0));
});

async function measure(job: FootprintJob): Promise<Footprint> {
  const runtime = createRuntime({ workers: 1 });
  await runtime.versions();
  const emptyBytes = peak();
  const start = performance.now();
  const session = await runtime.open(job.model, job.options);
  const loadMs = performance.now() - start;
  await session.time(job.feeds, job.repeats);
  const peakBytes = peak();
  await session.release();
  await runtime.close();
  return { peakBytes, emptyBytes, loadMs };
}
