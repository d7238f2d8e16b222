// Writes docs/ops.md from the compiler's tables: `npm run build && node docs/make-ops.mjs`.
import { writeFileSync } from "node:fs";
import { opsTable } from "../dist/opsdoc.js";

writeFileSync(new URL("ops.md", import.meta.url), opsTable());
