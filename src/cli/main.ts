#!/usr/bin/env node
import { VERSION } from "../version.ts";

/** `--version` answers without the engine; the rest is imported when it is needed. */
const argv = process.argv.slice(2);
if (argv[0] === "--version" || argv[0] === "-V") {
  const { engineVersion } = await import("../io/self.ts");
  const { platform, arch, versions } = process;
  process.stdout.write(`${VERSION} (onnxruntime ${engineVersion()}, node ${versions.node}, ${platform} ${arch})\n`);
} else {
  const { runCli } = await import("./run.ts");
  await runCli(argv);
}
