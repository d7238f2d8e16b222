import { Ajv, type ErrorObject } from "ajv";
import { parse } from "yaml";
import { nearest } from "./diagnostics/nearest.ts";
import { type Diagnostic, QcError } from "./diagnostics.ts";

/**
 * YAML (or JSON) text that a schema allows; every offence is collected. `page`: the documentation that errors point to. `more`: what an
 * error of one's own schema says beside its message.
 */
export function parseYaml(
  text: string,
  file: string,
  schema: object,
  page: string,
  more: (e: ErrorObject) => { readonly allowed?: readonly string[] } = () => ({}),
): unknown {
  const bad = (at: string, detail: string, rest: object = {}): Diagnostic => ({
    code: "data/config",
    file,
    line: undefined,
    at,
    detail,
    page,
    ...rest,
  });
  let value: unknown;
  try {
    value = parse(text, { maxAliasCount: 100 });
  } catch (e) {
    throw new QcError(bad("", (e as Error).message), { cause: e });
  }
  const check = new Ajv({ allErrors: true, strict: false, verbose: true, validateSchema: false }).compile({
    ...schema,
    $schema: undefined,
  });
  if (check(value)) return value;
  throw new QcError(
    (check.errors ?? []).map((e) => {
      const at = e.instancePath.split("/").slice(1).join(".");
      const extra = (e.params as { additionalProperty?: string }).additionalProperty;
      if (extra === undefined) return bad(at, e.message ?? "is not valid", more(e));
      const known = Object.keys((e.parentSchema as { properties?: object }).properties ?? {});
      const near = nearest(extra, known);
      return bad([at, extra].filter((x) => x !== "").join("."), "is no known key here", {
        allowed: known,
        ...(near === undefined ? {} : { nearest: near }),
      });
    }),
  );
}
