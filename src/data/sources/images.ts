import type { FileItem, Item } from "../item.ts";
import { digestFiles, type FileEntry, fileItem } from "./files.ts";
import type { Source } from "./types.ts";

export const IMAGE_FILES = ["jpg", "jpeg", "png", "webp", "gif", "tif", "tiff", "avif"];

/**
 * Form 3: image files. `image` is the encoded file, `class` the folder it lies in (when there is one), `name` the path without extension.
 */
export function imageSource(label: string, files: readonly FileEntry[]): Source {
  const folderOf = (f: FileEntry) => f.name.split("/").at(-2);
  const inFolders = files.length > 0 && files.every((f) => folderOf(f) !== undefined);
  const item = (f: FileEntry): FileItem => fileItem(f.path);
  const classes = inFolders ? files.map((f) => folderOf(f)!) : undefined;
  const names = files.map((f) => f.name.replace(/\.[^./]+$/, ""));
  return {
    label,
    size: files.length,
    fields: new Map([["image", "image file"], ...(classes ? [["class", "folder name"] as const] : []), ["name", "path without extension"]]),
    main: "image",
    id: (i) => files[i]!.name,
    record(i) {
      const out: Record<string, Item> = { image: item(files[i]!), name: { kind: "text", text: names[i]! } };
      if (classes) out["class"] = { kind: "text", text: classes[i]! };
      return out;
    },
    file: (i) => files[i]!.path,
    scalars: (field) => (field === "class" ? classes : field === "name" ? names : undefined),
    digest: (h) => digestFiles(h, files),
  };
}
