/** What a plan must not exceed; what is left out is free. */
export interface Limits {
  /** Of the file. */
  readonly bytes?: number;
  /** Stored bits, scales included, over the number of weights. */
  readonly bits?: number;
  readonly drop?: { readonly most: number; readonly unit: "%" | "pt" };
}
