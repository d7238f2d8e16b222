#!/usr/bin/env node
import { VERSION } from "../version.ts";

/** `--version` answers before anything else is loaded; the rest is imported when it is needed. */
const argv = process.argv.slice(2);
if (argv[0] === "--version" || argv[0] === "-V") process.stdout.write(`${VERSION}\n`);
else {
  const { runCli } = await import("./run.ts");
  await runCli(argv);
}
