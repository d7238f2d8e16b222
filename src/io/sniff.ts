/** What a file is by its first bytes, when it is something that people mistake for what was wanted. */
export interface Sniffed {
  readonly looksLike: string;
  readonly advice: string;
}

const unpack = "Unpack it first and give the file inside.";
const MAGIC: readonly { readonly at?: number; readonly bytes: string; readonly is: Sniffed }[] = [
  {
    bytes: "version https://git-lfs",
    is: { looksLike: "a Git LFS pointer (a text that stands for the real file)", advice: 'Run "git lfs pull" in its repository.' },
  },
  { bytes: "PK\x03\x04", is: { looksLike: "a zip archive", advice: unpack } },
  { bytes: "PK\x05\x06", is: { looksLike: "an empty zip archive", advice: unpack } },
  { bytes: "\x1f\x8b", is: { looksLike: "a gzip file", advice: unpack } },
  { bytes: "\x28\xb5\x2f\xfd", is: { looksLike: "a Zstandard file", advice: unpack } },
  { bytes: "BZh", is: { looksLike: "a bzip2 file", advice: unpack } },
  { bytes: "\xfd7zXZ\0", is: { looksLike: "an xz file", advice: unpack } },
  { bytes: "7z\xbc\xaf\x27\x1c", is: { looksLike: "a 7-Zip archive", advice: unpack } },
  { bytes: "ustar", at: 257, is: { looksLike: "a tar archive", advice: unpack } },
  { bytes: "\x89HDF", is: { looksLike: "an HDF5 file (Keras)", advice: "Export the network to ONNX first." } },
  { bytes: "TFL3", at: 4, is: { looksLike: "a TensorFlow Lite file", advice: "Export the network to ONNX first." } },
  { bytes: "ORTM", at: 4, is: { looksLike: "a file in onnxruntime's own format", advice: "Give the .onnx file that it was made from." } },
  { bytes: "GGUF", is: { looksLike: "a GGUF file", advice: "Export the network to ONNX first." } },
  { bytes: "\x93NUMPY", is: { looksLike: "a NumPy array", advice: "Give it where data is wanted." } },
  { bytes: '{"', at: 8, is: { looksLike: "a safetensors file", advice: "Export the network to ONNX first." } },
  { bytes: "\x80\x02", is: { looksLike: "a Python pickle (PyTorch)", advice: "Export the network to ONNX first." } },
  { bytes: "\x89PNG", is: { looksLike: "a PNG image", advice: "Give it where data is wanted." } },
];

export function sniff(bytes: Uint8Array): Sniffed | undefined {
  if (bytes.byteLength === 0) return { looksLike: "an empty file", advice: "Copy or download the file again." };
  for (const { at = 0, bytes: magic, is } of MAGIC) {
    let i = 0;
    while (i < magic.length && bytes[at + i] === magic.charCodeAt(i)) i++;
    if (i === magic.length) return is;
  }
  const head = String.fromCharCode(...bytes.subarray(0, 256)).trimStart();
  if (/^(<!doctype|<html|<head|<\?xml)/i.test(head))
    return { looksLike: "a web page (HTML or XML)", advice: "The download gave a page instead of the file: fetch the raw file." };
  if (/^[{[]\s*["{[]/.test(head)) return { looksLike: "a JSON text", advice: "Give the binary file." };
  return undefined;
}
