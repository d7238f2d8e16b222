import { resolve } from "node:path";
import { QcError } from "../diagnostics.ts";
import { readFile } from "../io/source.ts";
import type { SplitConfig } from "./config.ts";
import { Random } from "./random.ts";
import type { Role } from "./types.ts";

export type Roles = Readonly<Record<Role, readonly number[]>>;
const ROLES = ["calibrate", "select", "heldOut"] as const satisfies readonly Role[];

/** Without a split: a quarter is held out (the ranges need the most samples), and of the rest a tenth selects. */
const HELD_OUT = 0.25;
const SELECT = 0.1;

export interface SplitContext {
  readonly set: string;
  readonly size: number;
  readonly seed: number;
  /** Folder of the set file. */
  readonly folder: string;
  readonly id: (index: number) => string;
  readonly classes: readonly (number | undefined)[] | undefined;
  /** Samples of one sequence stay together and in order. */
  readonly sequences: readonly number[] | undefined;
  /** Roles that the source gives itself. */
  readonly given: readonly (Role | undefined)[] | undefined;
}

/**
 * Which samples calibrate, select and verify. Every list is in an order whose every prefix is a random sample with the classes in
 * proportion, so that "the first n" is a stratified draw.
 */
export function splitRoles(split: SplitConfig | undefined, c: SplitContext): Roles {
  if (c.size === 0) throw new QcError({ code: "data/no-samples", set: c.set });
  if (split?.indices !== undefined) return fromFile(split, c);
  if (c.given !== undefined) return fromSource(split, c, c.given);
  const order = drawOrder(range(c.size), c, split?.seed ?? c.seed);
  const amount = (x: number | undefined) => (x === undefined ? undefined : x < 1 ? Math.round(x * c.size) : Math.trunc(x));
  const [calibrate, select, heldOut] = [amount(split?.calibrate), amount(split?.select), amount(split?.heldOut)];
  // Without `select`, a tenth of what calibrates is set aside; without `calibrate`, what is not held out calibrates and selects.
  const pool = calibrate ?? (heldOut === undefined ? Math.ceil(c.size * (1 - HELD_OUT)) : c.size - heldOut);
  const selects = select ?? Math.floor(pool * SELECT);
  const calibrates = calibrate !== undefined && select !== undefined ? pool : pool - selects;
  const want = Math.max(0, calibrates) + selects + (heldOut ?? 0);
  if (want > c.size || calibrates < 0) throw new QcError({ code: "data/split-too-large", set: c.set, want, have: c.size });
  const one = wholeSequence(order, calibrates, c.sequences);
  const two = wholeSequence(order, Math.max(one, calibrates + selects), c.sequences);
  const three = heldOut === undefined ? order.length : wholeSequence(order, Math.max(two, calibrates + selects + heldOut), c.sequences);
  return { calibrate: order.slice(0, one), select: order.slice(one, two), heldOut: order.slice(two, three) };
}

/** A tenth of the calibrate samples (or `n`) selects; the smallest sets keep all for calibration. */
function setAside(pool: readonly number[], c: SplitContext, n?: number): readonly [readonly number[], readonly number[]] {
  const at = wholeSequence(pool, Math.max(0, pool.length - (n ?? Math.floor(pool.length * SELECT))), c.sequences);
  return [pool.slice(0, at), pool.slice(at)];
}

/** The first cut from `at` on that does not go through a sequence. */
function wholeSequence(order: readonly number[], at: number, sequences: readonly number[] | undefined): number {
  if (sequences === undefined) return at;
  while (at > 0 && at < order.length && sequences[order[at]!] === sequences[order[at - 1]!]) at++;
  return at;
}

function fromSource(split: SplitConfig | undefined, c: SplitContext, given: readonly (Role | undefined)[]): Roles {
  const seed = split?.seed ?? c.seed;
  const of = (r: Role) =>
    drawOrder(
      range(c.size).filter((i) => given[i] === r),
      c,
      seed,
    );
  const most = (list: readonly number[], n: number | undefined) =>
    n === undefined ? list : list.slice(0, n < 1 ? Math.round(n * list.length) : n);
  const unplaced = drawOrder(
    range(c.size).filter((i) => given[i] === undefined),
    c,
    seed,
  );
  const heldOut = most([...of("heldOut"), ...(given.includes("heldOut") ? [] : unplaced)], split?.heldOut);
  const pool = [...of("calibrate"), ...(given.includes("heldOut") && !given.includes("calibrate") ? unplaced : [])];
  if (given.includes("select")) return { calibrate: most(pool, split?.calibrate), select: most(of("select"), split?.select), heldOut };
  const n = split?.select;
  const [calibrate, select] = setAside(most(pool, split?.calibrate === undefined ? undefined : split.calibrate + (n ?? 0)), c, n);
  return { calibrate, select, heldOut };
}

function fromFile(split: SplitConfig, c: SplitContext): Roles {
  const spec = typeof split.indices === "string" ? { file: split.indices } : split.indices!;
  const path = resolve(c.folder, spec.file);
  const bad = (detail: string) => new QcError({ code: "data/config", file: path, line: undefined, at: "", detail });
  let lists: Readonly<Record<string, unknown>>;
  try {
    lists = JSON.parse(new TextDecoder().decode(readFile(path))) as Readonly<Record<string, unknown>>;
  } catch (e) {
    if (e instanceof QcError) throw e;
    throw bad(`is no JSON: ${(e as Error).message}`);
  }
  if (typeof lists !== "object" || lists === null || Array.isArray(lists)) throw bad("holds no object with lists of indices");
  const byName = new Map<string, number>();
  for (let i = 0; i < c.size; i++) for (const name of namesOf(c.id(i))) if (!byName.has(name)) byName.set(name, i);
  const listOf = (role: Role): number[] | undefined => {
    const key = spec[role as keyof typeof spec] ?? role;
    const list = lists[key];
    if (list === undefined) {
      if (Object.hasOwn(spec, role)) throw bad(`has no list "${key}"`);
      return undefined;
    }
    if (!Array.isArray(list)) throw bad(`"${key}" is no list`);
    return list.map((x: unknown) => {
      const index = typeof x === "number" ? x : byName.get(String(x));
      if (index === undefined || !Number.isInteger(index) || index < 0 || index >= c.size)
        throw new QcError({ code: "data/index", set: c.set, file: path, got: JSON.stringify(x), size: c.size });
      return index;
    });
  };
  const found = Object.fromEntries(ROLES.map((r) => [r, listOf(r)])) as Record<Role, number[] | undefined>;
  if (ROLES.every((r) => found[r] === undefined)) throw bad(`has none of the lists ${ROLES.join(", ")}`);
  checkOverlap(found, c);
  const taken = new Set(ROLES.flatMap((r) => found[r] ?? []));
  const order = (list: readonly number[]) => drawOrder(list, c, split.seed ?? c.seed);
  const heldOut = order(found.heldOut ?? range(c.size).filter((i) => !taken.has(i)));
  if (found.select !== undefined || found.calibrate === undefined)
    return { calibrate: order(found.calibrate ?? []), select: order(found.select ?? []), heldOut };
  const [calibrate, select] = setAside(order(found.calibrate), c, split.select);
  return { calibrate, select, heldOut };
}

/** A sample may be named with or without folder and extension. */
function namesOf(id: string): string[] {
  const base = id.slice(id.lastIndexOf("/") + 1);
  return [id, id.replace(/\.[^./]+$/, ""), base, base.replace(/\.[^./]+$/, "")];
}

function checkOverlap(lists: Readonly<Record<Role, readonly number[] | undefined>>, c: SplitContext): void {
  const owner = new Map<number, Role>();
  for (const role of ROLES) {
    const twice = new Map<Role, number[]>();
    for (const i of lists[role] ?? []) {
      const other = owner.get(i);
      if (other !== undefined) twice.set(other, [...(twice.get(other) ?? []), i]);
      else owner.set(i, role);
    }
    for (const [other, list] of twice)
      throw new QcError({ code: "data/overlap", set: c.set, a: other, b: role, count: list.length, first: c.id(list[0]!) });
  }
}

/**
 * A seeded order of `indices` in which classes are spread evenly: member k of a class with n members gets the place (k + u) / n, u fixed
 * per class, and places are sorted. A prefix of m then holds m·n/N of the class, one more or less.
 */
export function drawOrder(indices: readonly number[], c: Pick<SplitContext, "classes" | "sequences">, seed: number): number[] {
  const random = new Random(seed);
  const s = c.sequences;
  if (s !== undefined) {
    const groups = new Map<number, number[]>();
    for (const i of indices) {
      const g = groups.get(s[i]!);
      if (g === undefined) groups.set(s[i]!, [i]);
      else g.push(i);
    }
    return random.shuffle([...groups.values()]).flat();
  }
  const shuffled = random.shuffle([...indices]);
  const classes = c.classes;
  if (classes === undefined) return shuffled;
  const members = new Map<number, number[]>();
  for (const i of shuffled) {
    const k = classes[i] ?? -1;
    const list = members.get(k);
    if (list === undefined) members.set(k, [i]);
    else list.push(i);
  }
  const placed: { readonly at: number; readonly i: number }[] = [];
  for (const [, list] of [...members].sort((a, b) => a[0] - b[0])) {
    const u = random.float();
    list.forEach((i, k) => {
      placed.push({ at: (k + u) / list.length, i });
    });
  }
  return placed.sort((a, b) => a.at - b.at || a.i - b.i).map((p) => p.i);
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}
