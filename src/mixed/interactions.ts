import type { LayerScheme } from "../plan/schemes.ts";
import { uniformAt } from "../ptq/random.ts";
import type { Unit } from "./build.ts";
import type { Lab } from "./lab.ts";

export interface Interaction {
  readonly unit: string;
  readonly scheme: string;
  /** Mean loss that the change adds when others are changed too, its standard error, and the coalitions that it is from. */
  readonly mean: number;
  readonly se: number;
  readonly n: number;
  /** What the change adds alone. */
  readonly alone: number;
}

/**
 * Shapley values of changing a unit's scheme, estimated (Castro, Gómez, Tejada 2009): units in random order, each changed in turn from its
 * best quantized scheme to a random other one, on top of those changed before it; φ(u, s) = mean of what the loss grows by at that moment.
 * Where φ is far from the loss of the change alone, the unit's error interacts with that of others.
 */
export async function interactions(
  lab: Lab,
  units: readonly Unit[],
  alone: ReadonlyMap<string, number>,
  o: {
    readonly coalitions: number;
    readonly seed: number;
    readonly signal?: AbortSignal;
    readonly progress?: (done: number, total: number) => void;
  },
): Promise<Interaction[]> {
  let draw = 0;
  const random = () => uniformAt(o.seed, draw++, 7);
  const free = units.filter((u) => u.options.some((x) => x.scheme.name !== lab.start.get(u.key)!.name));
  const seen = new Map<string, number[]>();
  const start = await lab.evaluate(lab.start);
  for (let c = 0; c < o.coalitions; c++) {
    const order = [...free];
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    const choice = new Map<string, LayerScheme>(lab.start);
    let before = start;
    for (const u of order) {
      o.signal?.throwIfAborted();
      const others = u.options.filter((x) => x.scheme.name !== lab.start.get(u.key)!.name);
      const to = others[Math.floor(random() * others.length)]!.scheme;
      choice.set(u.key, to);
      const after = await lab.evaluate(choice);
      const key = `${u.key}\n${to.name}`;
      seen.set(key, [...(seen.get(key) ?? []), after - before]);
      before = after;
    }
    o.progress?.(c + 1, o.coalitions);
  }
  return free.flatMap((u) =>
    u.options.flatMap((x): Interaction[] => {
      const key = `${u.key}\n${x.scheme.name}`;
      const d = seen.get(key);
      if (!d) return [];
      const mean = d.reduce((a, b) => a + b, 0) / d.length;
      const square = d.reduce((a, b) => a + (b - mean) ** 2, 0);
      const se = d.length < 2 ? Number.POSITIVE_INFINITY : Math.sqrt(square / (d.length - 1) / d.length);
      return [{ unit: u.key, scheme: x.scheme.name, mean, se, n: d.length, alone: alone.get(key) ?? 0 }];
    }),
  );
}
