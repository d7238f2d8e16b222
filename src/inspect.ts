import { type CacheFacts, cacheOf } from "./cache.ts";
import type { Model } from "./graph/ir.ts";
import { modelHashes } from "./graph/onnx/hash.ts";
import { traitOf } from "./graph/ops/index.ts";
import { printType } from "./graph/print.ts";
import type { TensorData } from "./graph/tensor.ts";
import { allGraphs, allNodes, pathOfNode } from "./graph/walk.ts";
import { DTYPES, type DType, elementCount } from "./quant/dtype.ts";

/** What a model is, without running it. */
export interface Inspection {
  readonly producer: string;
  readonly irVersion: number;
  readonly opsets: Readonly<Record<string, number>>;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly nodes: number;
  readonly subgraphs: number;
  /** Operator (with its domain when it has one) to count, most first. */
  readonly operators: Readonly<Record<string, number>>;
  /** Elements of float constants (Constant nodes too), and bytes of all constants by type. */
  readonly parameters: number;
  readonly bytesByType: Readonly<Record<string, number>>;
  readonly externalBytes: number;
  /** Products that quantization speaks of: convolutions, matrix products, recurrent layers. */
  readonly products: number;
  /** Of a decoder: what one token adds to the cache, and how many positions there are. */
  readonly cache: CacheFacts | undefined;
  readonly quantizationOperators: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly hashes: { readonly structure: string; readonly weights: string };
  readonly nodeList: readonly { readonly name: string; readonly op: string; readonly outputs: readonly string[] }[];
}
export interface Port {
  readonly name: string;
  readonly type: string;
}

export function inspect(model: Model): Inspection {
  const operators = new Map<string, number>();
  let products = 0;
  let quantizationOperators = 0;
  const nodeList: Inspection["nodeList"][number][] = [];
  const bytes = new Map<DType, number>();
  let parameters = 0;
  let externalBytes = 0;
  const count = (t: TensorData) => {
    bytes.set(t.dtype, (bytes.get(t.dtype) ?? 0) + t.byteLength);
    if (DTYPES[t.dtype].kind === "float") parameters += elementCount(t.shape);
    externalBytes += t.external?.length ?? 0;
  };
  for (const n of allNodes(model)) {
    const op = n.domain === "" || n.domain === "ai.onnx" ? n.op : `${n.domain}.${n.op}`;
    operators.set(op, (operators.get(op) ?? 0) + 1);
    const trait = traitOf(n);
    if (trait === "compute" || trait === "recurrent") products++;
    if (trait === "quantized") quantizationOperators++;
    for (const a of n.attrs.values()) if (a.kind === "tensor") count(a.value);
    nodeList.push({ name: pathOfNode(n), op, outputs: n.outputs.flatMap((v) => (v ? [v.name] : [])) });
  }
  const graphs = [...allGraphs(model.graph)];
  for (const g of graphs) for (const { data } of g.initializers) if (data !== undefined) count(data);
  const port = (v: Model["graph"]["inputs"][number]): Port => ({ name: v.name, type: printType(v.type) });
  return {
    producer: [model.producerName, model.producerVersion].filter((s) => s !== "").join(" "),
    irVersion: model.irVersion,
    opsets: Object.fromEntries([...model.opsets].map(([d, v]) => [d === "" ? "ai.onnx" : d, v])),
    inputs: model.graph.inputs.filter((v) => v.data === undefined).map(port),
    outputs: model.graph.outputs.map(port),
    nodes: nodeList.length,
    subgraphs: graphs.length - 1,
    operators: Object.fromEntries([...operators].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))),
    parameters,
    bytesByType: Object.fromEntries([...bytes].sort((a, b) => b[1] - a[1])),
    externalBytes,
    products,
    cache: cacheOf(model),
    quantizationOperators,
    metadata: Object.fromEntries(model.metadata),
    hashes: modelHashes(model),
    nodeList,
  };
}
