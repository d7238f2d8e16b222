import { hmacSha256 } from "../io/hash.ts";
import type { Feeds, Tensor } from "../runtime/types.ts";

/**
 * HMAC-SHA256 of a sample's content: for each input, sorted by name, its name, type, shape and elements, all with their lengths. Equal
 * samples give equal keys, whichever index or file they came from; without the secret nobody can test whether a sample was used.
 */
export function sampleKey(secret: string, feeds: Feeds): string {
  return hmacSha256(secret, content(feeds));
}

function* content(feeds: Feeds): Generator<Uint8Array> {
  for (const name of Object.keys(feeds).sort()) {
    const t = feeds[name]!;
    const bytes = bytesOf(t);
    yield new TextEncoder().encode(JSON.stringify([name, t.dtype, t.dims, bytes.byteLength]));
    yield bytes;
  }
}

function bytesOf(t: Tensor): Uint8Array {
  if (Array.isArray(t.data)) return new TextEncoder().encode(JSON.stringify(t.data));
  return new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength);
}
