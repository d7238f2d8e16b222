import type { Hasher } from "../../io/hash.ts";
import type { Fields } from "../item.ts";
import type { Label, Metric, Role } from "../types.ts";

/** Raw samples by index: what a file or folder holds, before the steps. */
export interface Source {
  /** Path or pattern, for messages. */
  readonly label: string;
  readonly size: number;
  /** Field name → what it is, for messages: `uint8[96,96,3]`. */
  readonly fields: ReadonlyMap<string, string>;
  /** The field that `from` means when it is left out and the input's name is no field. */
  readonly main: string | undefined;
  id(index: number): string;
  /** The fields of one sample; only those in `wanted` need to be loaded. */
  record(index: number, wanted: readonly string[]): Fields | Promise<Fields>;
  /** The file a sample comes from, when it is one. */
  file?(index: number): string | undefined;
  /** All values of a scalar field, when they are cheap to have (labels). */
  scalars?(field: string): readonly (number | string)[] | undefined;
  readonly roles?: readonly (Role | undefined)[] | undefined;
  readonly sequences?: readonly number[] | undefined;
  /** A field that nothing takes is worth a warning: it may be an input under another name. */
  readonly strict?: boolean;
  /** Labels and metric that a loader module brings along. */
  labelOf?(index: number): Label | undefined;
  classes?(): readonly (number | undefined)[] | undefined;
  metric?(): Promise<Metric | undefined>;
  /** Feeds the content (of big folders: names and sizes) to a hash. */
  digest(h: Hasher): void;
  /** Unpacks what these fields need, off this thread. */
  prepare?(wanted: readonly string[]): Promise<void>;
}

/** Folders with more bytes than this are told apart by names and sizes alone. */
export const HASH_WHOLE = 512 * 1024 ** 2;
