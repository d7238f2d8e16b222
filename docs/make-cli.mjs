// Writes docs/cli.md from the option table: `npm run build && node docs/make-cli.mjs`.
import { writeFileSync } from "node:fs";
import { cliReference } from "../dist/cli/reference.js";

writeFileSync(new URL("cli.md", import.meta.url), cliReference());
