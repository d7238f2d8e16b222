import type { Model, Node, Use, Value } from "../graph/ir.ts";
import { nodesByPath, valuesByPath } from "../graph/walk.ts";
import type { Consumers, Site } from "./types.ts";

/** Names of the plan to things of the graph. Taken once, before anything is changed: lowering renames and adds, paths stay as planned. */
export class Resolver {
  readonly #values: Map<string, Value>;
  readonly #nodes: Map<string, Node>;

  constructor(model: Model) {
    this.#values = valuesByPath(model);
    this.#nodes = nodesByPath(model);
  }

  value(path: string): Value {
    const v = this.#values.get(path);
    if (!v) throw new Error(`internal: no value "${path}": the plan was not checked`);
    return v;
  }
  node(path: string): Node {
    const n = this.#nodes.get(path);
    if (!n) throw new Error(`internal: no node "${path}": the plan was not checked`);
    return n;
  }
  /** The uses that a site speaks of. */
  uses(site: { readonly consumers: Consumers }, value: Value): Use[] {
    if (site.consumers === "all") return [...value.uses];
    return site.consumers.map((c) => ({ node: this.node(c.node), input: c.input }));
  }
}

export type WeightPlanSite = Extract<Site, { kind: "weight" }>;
