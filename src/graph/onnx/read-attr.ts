import type { Attr, AttrKind, SparseTensor } from "../attr.ts";
import type { Graph, Node } from "../ir.ts";
import type { TensorData } from "../tensor.ts";
import type { ValueType } from "../types.ts";
import { readSparse } from "./sparse.ts";
import { readTensor, type TensorContext } from "./tensor.ts";
import { readType } from "./type.ts";
import type { Wire } from "./wire.ts";

/** Attributes hold graphs and graphs hold attributes: the reader of graphs is handed in. */
export interface AttrContext extends TensorContext {
  subgraph(w: Wire, parent: Graph, holder: Node | undefined): Graph;
}

/** AttributeType numbers to kinds; the field in which each kind's value stands. */
const TYPES = new Map<number, AttrKind["kind"]>([
  [1, "float"],
  [2, "int"],
  [3, "string"],
  [4, "tensor"],
  [5, "graph"],
  [6, "floats"],
  [7, "ints"],
  [8, "strings"],
  [9, "tensors"],
  [10, "graphs"],
  [11, "sparse"],
  [12, "sparses"],
  [13, "type"],
  [14, "types"],
]);
const FIELD_KIND = new Map<number, AttrKind["kind"]>([
  [2, "float"],
  [3, "int"],
  [4, "string"],
  [5, "tensor"],
  [6, "graph"],
  [7, "floats"],
  [8, "ints"],
  [9, "strings"],
  [10, "tensors"],
  [11, "graphs"],
  [14, "type"],
  [15, "types"],
  [22, "sparse"],
  [23, "sparses"],
]);

/** AttributeProto. The type comes first, since it says which field counts; files older than IR 2 leave it out. */
export function readAttr(w: Wire, g: Graph, ctx: AttrContext, holder?: Node): [string, Attr] {
  let name = "";
  let ref = "";
  let doc: string | undefined;
  let type = 0;
  let filled: AttrKind["kind"] | undefined;
  while (w.next()) {
    if (w.field === 1) name = w.text();
    else if (w.field === 13) doc = w.text();
    else if (w.field === 20) type = w.int32();
    else if (w.field === 21) ref = w.text();
    else {
      filled ??= FIELD_KIND.get(w.field);
      w.skip();
    }
  }
  w.pos = w.start;
  const depth = ctx.place.path.push(`attribute "${name}"`) - 1;
  if (name === "") throw w.bad("an attribute without name");
  const kind = TYPES.get(type) ?? (type === 0 ? filled : undefined);
  if (kind === undefined && ref === "") throw w.bad(type === 0 ? "an attribute without type and value" : `attribute type ${type}`);
  const unknown: Uint8Array[] = [];
  const value: AttrKind = ref !== "" ? refAttr(w, ref, type, unknown) : valueAttr(w, kind!, g, ctx, unknown, holder);
  ctx.place.path.length = depth;
  return [name, { ...value, ...(doc !== undefined && { doc }), ...(unknown.length > 0 && { unknown }) }];
}

const HEAD = new Set([1, 13, 20, 21]);

function refAttr(w: Wire, value: string, of: number, unknown: Uint8Array[]): AttrKind {
  while (w.next()) {
    if (HEAD.has(w.field)) w.skip();
    else unknown.push(w.raw());
  }
  return { kind: "ref", value, of };
}

/** Absent numbers and strings have protobuf's defaults; an absent graph, tensor or type is a damaged file. */
function valueAttr(w: Wire, kind: AttrKind["kind"], g: Graph, ctx: AttrContext, unknown: Uint8Array[], holder: Node | undefined): AttrKind {
  let int: number | bigint = 0;
  let float = 0;
  let bytes: Uint8Array = new Uint8Array(0);
  const ints: (number | bigint)[] = [];
  const floats: number[] = [];
  const strings: Uint8Array[] = [];
  const tensors: TensorData[] = [];
  const graphs: Graph[] = [];
  const types: ValueType[] = [];
  const sparses: SparseTensor[] = [];
  while (w.next()) {
    if (HEAD.has(w.field)) {
      w.skip();
      continue;
    }
    if (FIELD_KIND.get(w.field) !== kind) {
      unknown.push(w.raw());
      continue;
    }
    switch (kind) {
      case "int":
        int = w.int();
        break;
      case "float":
        float = w.float();
        break;
      case "string":
        bytes = w.bytes();
        break;
      case "ints":
        w.ints(ints);
        break;
      case "floats":
        w.floats(floats);
        break;
      case "strings":
        ctx.place.string();
        strings.push(w.bytes());
        break;
      case "tensor":
      case "tensors":
        tensors.push(readTensor(w.message(), ctx, true).data);
        break;
      case "graph":
      case "graphs":
        graphs.push(ctx.subgraph(w.message(), g, holder));
        break;
      case "type":
      case "types": {
        const m = w.message();
        ctx.place.piece();
        types.push(readType(m) ?? { kind: "opaque", bytes: m.buf.subarray(m.start, m.end) });
        break;
      }
      case "sparse":
      case "sparses":
        sparses.push(readSparse(w.message(), ctx, true).sparse);
    }
  }
  const one = <T>(list: readonly T[]): T => {
    if (list.length !== 1) throw w.bad(`${list.length} values in an attribute of kind "${kind}"`);
    return list[0]!;
  };
  switch (kind) {
    case "int":
      return { kind, value: int };
    case "float":
      return { kind, value: float };
    case "string":
      return { kind, value: bytes };
    case "ints":
      return { kind, value: ints };
    case "floats":
      return { kind, value: floats };
    case "strings":
      return { kind, value: strings };
    case "tensor":
      return { kind, value: one(tensors) };
    case "tensors":
      return { kind, value: tensors };
    case "graph":
      return { kind, value: one(graphs) };
    case "graphs":
      return { kind, value: graphs };
    case "type":
      return { kind, value: one(types) };
    case "types":
      return { kind, value: types };
    case "sparse":
      return { kind, value: one(sparses) };
    case "sparses":
      return { kind, value: sparses };
    case "ref":
      throw w.bad("internal: ref");
    default:
      return kind satisfies never;
  }
}
