import { error, type Section } from "./format.ts";

export const IO = {
  "io/not-found": (f: { readonly path: string }) => error(`No file at "${f.path}"`, "Check the path."),
  "io/not-a-file": (f: { readonly path: string; readonly is: string }) =>
    error(`"${f.path}" is ${f.is}, not a regular file`, "Give the path of a file."),
  "io/unreadable": (f: { readonly path: string; readonly message: string }) =>
    error(`Cannot read "${f.path}": ${f.message}`, "Check the permissions and that the disk is mounted."),
  "io/write-failed": (f: { readonly path: string; readonly message: string }) =>
    error(
      `Cannot write "${f.path}": ${f.message}`,
      "Check the folder, its permissions and the free space. What was there before is untouched.",
    ),
  "io/wrong-kind": (f: { readonly file: string; readonly want: string; readonly looksLike: string; readonly advice: string }) =>
    error(`"${f.file}" is no ${f.want}: it looks like ${f.looksLike}`, f.advice),
  "io/malformed": (f: { readonly file: string; readonly at: string; readonly offset: number; readonly detail: string }) =>
    error(
      `"${f.file}" is damaged at ${f.at} (byte ${f.offset}): ${f.detail}`,
      "Copy or export the file again; compare its size and checksum with the original.",
    ),
  "io/limit": (f: { readonly file: string; readonly limit: string; readonly most: number; readonly got: number; readonly at: string }) =>
    error(
      `"${f.file}" exceeds the limit "${f.limit}" at ${f.at}: ${f.got}, at most ${f.most}`,
      "If this is a real model, please report it; the limits stand in src/io/limits.ts.",
    ),
  "io/escape": (f: { readonly location: string; readonly folder: string; readonly why: string }) =>
    error(
      `External data "${f.location}" is refused: ${f.why} (the model's folder is "${f.folder}")`,
      "Put the data file into the model's folder and name it by a relative path.",
    ),
  "io/external-range": (f: { readonly tensor: string; readonly location: string; readonly detail: string }) =>
    error(
      `External data of "${f.tensor}" in "${f.location}": ${f.detail}`,
      "Copy or export the model and its data file again, both together.",
    ),
  "io/external-no-folder": (f: { readonly tensor: string; readonly location: string }) =>
    error(
      `The data of "${f.tensor}" is in the file "${f.location}", and the model was given as bytes`,
      "Load the model by its path, or give the folder that holds its data.",
    ),
  "io/too-large": (f: { readonly path: string; readonly sizeBytes: number; readonly most: number }) =>
    error(`"${f.path}" would have ${f.sizeBytes} bytes; ONNX files end at ${f.most}`, "Let the weights go into external data."),
  "io/npy-type": (f: { readonly file: string; readonly descr: string; readonly why: string }) =>
    error(
      `The array in "${f.file}" has the NumPy type ${f.descr}: ${f.why}`,
      "Save it as a plain numeric array: numpy.asarray(x, dtype=numpy.float32) and the like.",
    ),
} as const satisfies Section;
