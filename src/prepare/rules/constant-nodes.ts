import type { Attr } from "../../graph/attr.ts";
import type { Node } from "../../graph/ir.ts";
import { floats, int64s, type TensorData, tensorFrom } from "../../graph/tensor.ts";
import { matched, nodeRule, refuse } from "../rule.ts";

/**
 * `Constant` becomes a constant of its graph, with the same name and data: exact. One that is a graph output stays a node, since not
 * every runtime takes a constant as the output of a subgraph.
 */
export const constantNodes = nodeRule<{ readonly node: Node; readonly data: TensorData }>({
  name: "constant-nodes",
  ops: ["Constant"],
  tolerance: 0,
  match(n) {
    const out = n.outputs[0];
    if (!out || out.isOutput) return undefined;
    const held = [...n.attrs].find(([k]) => k.startsWith("value") || k === "sparse_value");
    const data = held && tensorOf(held[1], held[0]);
    return data ? matched({ node: n, data }) : refuse(n, `it holds ${held ? `a ${held[1].kind} in "${held[0]}"` : "no value"}`);
  },
  apply({ node, data }) {
    const g = node.graph;
    const out = node.outputs[0]!;
    const { name, doc, metadata } = out;
    const c = g.constant(data, `${name}_constant`);
    g.replaceAllUses(out, c);
    g.remove(node);
    g.rename(c, name);
    c.doc = doc;
    c.metadata = metadata;
  },
});

function tensorOf(a: Attr, name: string): TensorData | undefined {
  switch (a.kind) {
    case "tensor":
      return a.value;
    case "float":
      return floats([a.value], []);
    case "floats":
      return floats(a.value);
    case "int":
      return tensorFrom(BigInt64Array.of(BigInt(a.value)), []);
    case "ints":
      return int64s(a.value);
    case "string":
    case "strings": {
      const list = a.kind === "string" ? [a.value] : a.value;
      return {
        dtype: "string",
        shape: name === "value_string" ? [] : [list.length],
        byteLength: 0,
        bytes: () => new Uint8Array(0),
        strings: () => list,
      };
    }
    default:
      return undefined;
  }
}
