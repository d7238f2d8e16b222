/** Kept equal to package.json by test/cli/version.test.ts: the library must not read files to know its own version. */
export const VERSION = "0.1.0";
export const TOOL = `qc ${VERSION}`;
