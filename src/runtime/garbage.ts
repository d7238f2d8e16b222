import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Bytes of dropped tensors after which a scavenge is asked for: about what one costs, spread so thin that it does not show. */
const ENOUGH = 4 * 1024 ** 2;

let scavenge: (() => void) | undefined;

/**
 * Keeps memory flat while tensors stream by. Their buffers lie outside the heap, and V8 lets tens of megabytes of dead ones gather before
 * it looks (twice the largest semi-space), the more the longer a fold runs. This counts what was dropped and asks for a young collection.
 */
export class Dropped {
  #bytes = 0;

  add(tensors: Readonly<Record<string, { readonly data: ArrayLike<unknown> | ArrayBufferView }>>): void {
    for (const t of Object.values(tensors)) if (ArrayBuffer.isView(t.data)) this.#bytes += t.data.byteLength;
    if (this.#bytes < ENOUGH) return;
    this.#bytes = 0;
    scavenge ??= exposed();
    scavenge();
  }
}

/** The collector of this thread, without a flag on the command line. */
function exposed(): () => void {
  setFlagsFromString("--expose-gc");
  const gc: unknown = runInNewContext("gc");
  return typeof gc === "function" ? () => void gc({ type: "minor" }) : () => {};
}
