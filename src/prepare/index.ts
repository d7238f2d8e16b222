import { QcError, type Report } from "../diagnostics.ts";
import { cloneModel } from "../graph/clone.ts";
import type { Graph, Model, Node, Value } from "../graph/ir.ts";
import { staticShape, type ValueType } from "../graph/types.ts";
import { allGraphs, holderOf, nodeKey, pathOfNode } from "../graph/walk.ts";
import type { Feeds, Runtime } from "../runtime/types.ts";
import { foldConstants } from "./constants/index.ts";
import { convertOpset } from "./opset/index.ts";
import { probeTypes, typesByPath } from "./probe.ts";
import { findRegions, type Region, regionIndex } from "./regions.ts";
import type { Context, Rule } from "./rule.ts";
import { constantInputs } from "./rules/constant-inputs.ts";
import { constantNodes } from "./rules/constant-nodes.ts";
import { dropDead } from "./rules/drop-dead.ts";
import { dropIdentity } from "./rules/drop-identity.ts";
import { foldAffine } from "./rules/fold-affine.ts";
import { foldBatchnorm } from "./rules/fold-batchnorm.ts";
import { foldPad } from "./rules/fold-pad.ts";
import { foldShape } from "./rules/fold-shape.ts";
import { inlineFunctions } from "./rules/inline-functions.ts";
import { inlineIf } from "./rules/inline-if.ts";
import { nameNodes } from "./rules/name-nodes.ts";
import { plainSoftmax } from "./rules/plain-softmax.ts";
import type { Types } from "./types.ts";

export { foldConstants } from "./constants/index.ts";
export { type Probed, probeTypes } from "./probe.ts";
export type { Types } from "./types.ts";

/** Raised whenever a rule changes what it makes: stats and plans are bound to it. */
export const PREPARE_VERSION = "prepare/1";

/** Rules that need no types, in order. */
export const CLEANUP: readonly Rule[] = [nameNodes, constantNodes, constantInputs, dropDead, dropIdentity];
/** Rules that use types, in order. */
export const REWRITES: readonly Rule[] = [
  foldShape,
  inlineIf,
  plainSoftmax,
  foldPad,
  foldBatchnorm,
  foldAffine,
  dropIdentity,
  dropDead,
  nameNodes,
];

/** Q/DQ per channel needs 13, and with it Squeeze, Softmax and others have the meaning that rules and gradients are written for. */
const LEAST_OPSET = 13;

/** The list is run until nothing changes, at most this often: each rule makes the graph smaller, so this is a guard, not a limit. */
const ROUNDS = 8;

export interface PrepareOptions {
  readonly report?: Report;
  /** One sample: shapes are then those seen with it. */
  readonly feeds?: Feeds;
  /** The opset that the output needs, when that is more than 13. */
  readonly targetOpset?: number;
  /** Rules to leave out, by name (`fold-constants` too). */
  readonly without?: readonly string[];
}

export interface Prepared {
  readonly model: Model;
  readonly version: string;
  readonly applied: readonly { readonly rule: string; readonly count: number }[];
  readonly refused: readonly { readonly rule: string; readonly node: string; readonly why: string }[];
  /** By the path of each value (`pathOf`). With `feeds`, shapes are those seen with that sample. */
  readonly types: ReadonlyMap<string, ValueType>;
}

/**
 * The same function in a form that is good to quantize: constants are constants, normalization at products is part of them, nothing dead
 * is left. The argument is not changed. Graph inputs and outputs keep their names, types and order.
 */
export async function prepareModel(source: Model, runtime: Runtime, options: PrepareOptions = {}): Promise<Prepared> {
  const job = new Job(cloneModel(source), options);
  try {
    return await prepareOnce(job, runtime, options);
  } catch (e) {
    if (job.told() === 0 || !isLoadFailure(e)) throw e;
    // Some models are loaded only while a branch or a computed shape hides from the runtime that they break a rule of theirs.
    const p = await prepareOnce(
      new Job(cloneModel(source), { ...options, without: [...(options.without ?? []), ...TELLING] }),
      runtime,
      options,
    );
    const why = "the runtime does not load the model with it";
    return { ...p, refused: [...p.refused, ...TELLING.filter((r) => job.counts.has(r)).map((rule) => ({ rule, node: "", why }))] };
  }
}

/** Rules that let the runtime derive more types. */
const TELLING = ["fold-shape", "inline-if"] as const;

function isLoadFailure(e: unknown): boolean {
  return e instanceof QcError && e.diagnostics.some((d) => d.code === "runtime/load-failed");
}

async function prepareOnce(job: Job, runtime: Runtime, options: PrepareOptions): Promise<Prepared> {
  job.inlineFunctions();
  job.run(CLEANUP);
  job.raiseOpset(Math.max(LEAST_OPSET, options.targetOpset ?? 0));
  for (let told = -1; told !== job.told(); ) {
    // A shape that becomes a constant, and a branch that is taken, tell the shapes behind them.
    told = job.told();
    await job.foldConstants(runtime);
    await job.probe(runtime, options.feeds);
    job.run(REWRITES);
  }
  return {
    model: job.model,
    version: PREPARE_VERSION,
    applied: [...job.counts].map(([rule, count]) => ({ rule, count })),
    refused: [...job.refusals.values()],
    types: typesByPath(job.allTypes()),
  };
}

/** The state of one preparation. */
class Job {
  readonly model: Model;
  readonly counts = new Map<string, number>();
  readonly refusals = new Map<string, { readonly rule: string; readonly node: string; readonly why: string }>();
  types: Types = new Map();
  seen: Types = new Map();
  derived: ReadonlyMap<Value, readonly number[]> = new Map();
  readonly #without: ReadonlySet<string>;
  readonly #context: Context;
  /** Found when a rule asks, and again after each round of rules. */
  #regions: ReadonlyMap<Node, Region> | undefined;

  constructor(model: Model, options: PrepareOptions) {
    this.model = model;
    this.#without = new Set(options.without);
    this.#context = {
      model,
      report: options.report ?? (() => {}),
      typeOf: (v) => this.#typeOf(v),
      retype: (v, like) => {
        v.type = like.type;
        for (const map of [this.types, this.seen]) {
          const t = map.get(like);
          if (t) map.set(v, t);
          else map.delete(v);
        }
      },
      inRegion: (n) => {
        this.#regions ??= regionIndex(findRegions(model));
        return this.#regions.has(n);
      },
      fixedShape: (v) => {
        if (v.data) return v.data.shape;
        if (!model.graph.inputs.every((i) => staticShape(i.type) !== undefined)) return undefined;
        return v.isInput && v.graph === model.graph ? staticShape(v.type) : this.derived.get(v);
      },
    };
  }

  /** How often something was settled that lets the runtime derive more types. */
  told(): number {
    return TELLING.reduce((sum, rule) => sum + (this.counts.get(rule) ?? 0), 0);
  }

  async probe(runtime: Runtime, feeds: Feeds | undefined): Promise<void> {
    ({ types: this.types, seen: this.seen, derived: this.derived } = await probeTypes(this.model, runtime, feeds));
  }

  /** To the least opset that every stage behind speaks. A refusal leaves the model where it is; then lowering says what is in the way. */
  raiseOpset(target: number): void {
    const now = this.model.opsets.get("");
    if (now === undefined || now >= target || this.#without.has("opset")) return;
    const { changes, refused } = convertOpset(this.model, target);
    this.counts.set("opset", target - now);
    for (const c of changes) this.counts.set(`opset-${c.rule}`, c.count);
    for (const r of refused) this.#refuse("opset", r.node, r.why);
    if (refused.length > 0) this.counts.delete("opset");
    this.run(CLEANUP);
  }

  #typeOf(v: Value): ValueType | undefined {
    if (v.data) return { kind: "tensor", elem: v.data.dtype, shape: v.data.shape };
    return this.types.get(v) ?? v.type;
  }

  /** The Add that a rule made has the type of what it adds to. */
  #ofInput(v: Value): ValueType | undefined {
    const from = v.producer?.origin && v.producer.inputs.find((i) => i && !i.data);
    return from && (this.seen.get(from) ?? this.#typeOf(from));
  }

  /** Runs the rules in order, again and again until none changes anything. */
  run(rules: readonly Rule[]): void {
    const active = rules.filter((r) => !this.#without.has(r.name));
    for (let round = 0; round < ROUNDS; round++) {
      let changed = 0;
      this.#regions = undefined;
      for (const r of active) changed += this.#runOne(r);
      if (changed === 0) return;
    }
  }

  #runOne(rule: Rule): number {
    let count = 0;
    const graphs = [...allGraphs(this.model.graph)];
    if ("run" in rule) {
      for (const g of graphs) if (isAttached(g)) count += rule.run(g, this.#context);
    } else {
      const ops = new Set(rule.ops);
      for (const [key, r] of this.refusals) if (r.rule === rule.name) this.refusals.delete(key);
      for (const g of graphs) {
        if (!isAttached(g)) continue;
        for (const n of g.nodes.filter((x) => ops.has(x.op) && (x.domain === "" || x.domain === "ai.onnx"))) {
          if (!isThere(n)) continue;
          const done = rule.step(n, this.#context);
          if (done === true) count++;
          else if (done) this.#refuse(rule.name, pathOfNode(n), done.at === nodeKey(n) ? done.why : `${done.why} (at "${done.at}")`);
        }
      }
    }
    if (count > 0) this.counts.set(rule.name, (this.counts.get(rule.name) ?? 0) + count);
    return count;
  }

  #refuse(rule: string, node: string, why: string): void {
    this.refusals.set(`${rule}\n${node}`, { rule, node, why });
  }

  inlineFunctions(): void {
    if (this.#without.has("inline-functions")) return;
    const count = inlineFunctions(this.model, (n, why) => this.#refuse("inline-functions", pathOfNode(n), why));
    if (count > 0) this.counts.set("inline-functions", count);
  }

  /** Until nothing folds: what one session computes may be what the next needs to know sizes. */
  async foldConstants(runtime: Runtime): Promise<void> {
    if (this.#without.has("fold-constants")) return;
    for (let round = 0; round < ROUNDS; round++) {
      const { folded, refused } = await foldConstants(this.model, runtime);
      for (const [key, r] of this.refusals) if (r.rule === "fold-constants") this.refusals.delete(key);
      for (const r of refused) this.#refuse("fold-constants", r.node, r.why);
      if (folded === 0) return;
      this.counts.set("fold-constants", (this.counts.get("fold-constants") ?? 0) + folded);
      this.run([inlineIf, dropIdentity, dropDead]);
    }
  }

  allTypes(): Types {
    const out: Types = new Map();
    for (const g of allGraphs(this.model.graph)) {
      for (const v of g.values.values()) {
        const t = this.seen.get(v) ?? this.#typeOf(v) ?? this.#ofInput(v);
        if (t) out.set(v, t);
      }
    }
    return out;
  }
}

/** False once a rule has removed the node that holds the graph, or one around that. */
function isAttached(g: Graph): boolean {
  if (!g.parent) return true;
  return holderOf(g) !== undefined && isAttached(g.parent);
}

/** False once a rule has removed the node (a removed node has lost its outputs). */
function isThere(n: Node): boolean {
  return n.outputs.length === 0 || n.outputs.some((o) => o && n.graph.values.get(o.name) === o);
}
