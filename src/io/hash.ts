import { createHash, createHmac } from "node:crypto";

type Chunks = Uint8Array | string | Iterable<Uint8Array>;

function* pieces(data: Chunks): Generator<Uint8Array | string> {
  if (data instanceof Uint8Array || typeof data === "string") yield data;
  else yield* data;
}

/** Lower-case hexadecimal SHA-256. */
export function sha256(data: Chunks): string {
  const h = createHash("sha256");
  for (const p of pieces(data)) h.update(p);
  return h.digest("hex");
}

export function hmacSha256(key: Uint8Array | string, data: Chunks): string {
  const h = createHmac("sha256", key);
  for (const p of pieces(data)) h.update(p);
  return h.digest("hex");
}

/** SHA-256 of bytes that come in parts. */
export interface Hasher {
  update(bytes: Uint8Array | string): void;
  /** Ends the hash; hexadecimal. */
  digest(): string;
}
export function hasher(): Hasher {
  const h = createHash("sha256");
  return { update: (b) => void h.update(b), digest: () => h.digest("hex") };
}
