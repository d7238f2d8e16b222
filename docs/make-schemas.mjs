// Writes the published schemas: `npm run build && node docs/make-schemas.mjs`.
import { writeFileSync } from "node:fs";
import { printPlanSchema } from "../dist/plan/schema.js";
import { printReportSchema } from "../dist/verify/schema.js";

writeFileSync(new URL("plan.schema.json", import.meta.url), printPlanSchema());
writeFileSync(new URL("report.schema.json", import.meta.url), printReportSchema());
