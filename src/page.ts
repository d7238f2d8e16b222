import type { Stats } from "./calibrate/types.ts";
import type { DataSet } from "./data/types.ts";
import type { Plan } from "./plan/types.ts";
import type { VerifyReport } from "./verify/types.ts";

/** `report.html`: the page, with pictures of the samples whose verdict changed. Its code is loaded when a page is written. */
export async function pageOf(o: {
  readonly title: string;
  readonly report: VerifyReport;
  readonly plan?: Plan | undefined;
  readonly stats?: Stats | undefined;
  readonly data?: DataSet | undefined;
}): Promise<string> {
  const { renderReport } = await import("./verify/html/index.ts");
  const changed = o.report.levels.at(-1)?.metric?.flips?.samples;
  const ids = [...(changed?.lost ?? []), ...(changed?.won ?? [])];
  const { data } = o;
  const pictures =
    data === undefined || ids.length === 0
      ? undefined
      : await (await import("./data/pictures.ts")).picturesOf(data, ids, data.roles.heldOut.slice(0, o.report.samples.n));
  const { title, report, plan, stats } = o;
  return renderReport({ title: `${title}: ${report.recipe} for ${report.target}`, report, plan, stats, ...(pictures && { pictures }) });
}
