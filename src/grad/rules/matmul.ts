import { floatAttr, intAttr, stringAttr } from "../../graph/attr.ts";
import type { Value } from "../../graph/ir.ts";
import type { Dim } from "../../graph/types.ts";
import type { Row, Rule } from "../rule.ts";

const lastTwo = (rank: number) => Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : i === rank - 2 ? rank - 1 : rank - 2));

/** Y [.., m, n] = A [.., m, k] · B [.., k, n]:  dA = dY·Bᵀ,  dB = Aᵀ·dY, batch dimensions summed where they were broadcast. */
export const matmul: Rule = (r) => {
  const [ra, rb] = [r.rank(r.x(0)), r.rank(r.x(1))];
  if (ra === 1 || rb === 1) return vectors(r, ra, rb);
  const e = r.e;
  const out: (Value | undefined)[] = [undefined, undefined];
  if (r.need(0)) {
    const g = r.op("MatMul", r.dy(), e.transpose(r.x(1), lastTwo(rb)));
    out[0] = rb === 2 ? g : r.unbroadcast(g, r.x(0), batched(r, r.x(0)));
  }
  if (r.need(1)) {
    if (rb === 2 && ra > 2) {
      // One product over all rows: [k, rows] · [rows, n].
      const a = e.reshape(r.x(0), [-1, e.dim(r.x(1), 0)]);
      const g = e.reshape(r.dy(), [-1, e.dim(r.x(1), 1)]);
      out[1] = e.op("Gemm", [a, g], { transA: 1 });
    } else {
      const g = r.op("MatMul", e.transpose(r.x(0), lastTwo(ra)), r.dy());
      out[1] = ra === 2 && rb === 2 ? g : r.unbroadcast(g, r.x(1), batched(r, r.x(1)));
    }
  }
  return out;
};
/** Shape of a gradient before its batch dimensions are summed: batch of Y, then the last two of v. */
function batched(r: Row, v: Value): readonly Dim[] | undefined {
  const ys = r.e.shape(r.y());
  const vs = r.e.shape(v);
  return ys && vs ? [...ys.slice(0, -2), ...vs.slice(-2)] : undefined;
}

/** A vector operand is a matrix of one row (left) or one column (right) whose extra dimension Y does not have. */
function vectors(r: Row, ra: number, rb: number): (Value | undefined)[] {
  const e = r.e;
  const column = (v: Value) => e.op("Unsqueeze", [v, e.ints([-1])]);
  const row = (v: Value) => e.op("Unsqueeze", [v, e.ints([-2])]);
  const [a, b] = [r.x(0), r.x(1)];
  if (ra === 1 && rb === 1) return [r.need(0) ? r.mul(b, r.dy()) : undefined, r.need(1) ? r.mul(a, r.dy()) : undefined];
  const ones = (n: number) => Array.from({ length: n }, (_, i) => i);
  if (ra === 1) {
    // dY [.., n]: dA = Σ batch B·dY [.., k, 1];  dB = a [k, 1] · dY [.., 1, n].
    const da = () => {
      const g = e.op("Squeeze", [r.op("MatMul", b, column(r.dy())), e.ints([-1])]);
      return e.reduce("ReduceSum", g, ones(rb - 2), 0);
    };
    return [r.need(0) ? da() : undefined, r.need(1) ? r.op("MatMul", column(a), row(r.dy())) : undefined];
  }
  // dY [.., m]: dA = dY [.., m, 1] · bᵀ [1, k];  dB = Σ batch Aᵀ·dY.
  const db = () => {
    const g = e.op("Squeeze", [r.op("MatMul", e.transpose(a, lastTwo(ra)), column(r.dy())), e.ints([-1])]);
    return e.reduce("ReduceSum", g, ones(ra - 2), 0);
  };
  return [r.need(0) ? r.op("MatMul", column(r.dy()), row(b)) : undefined, r.need(1) ? db() : undefined];
}

/** Y = α·op(A)·op(B) + β·C. */
export const gemm: Rule = (r) => {
  const alpha = floatAttr(r.node, "alpha", 1);
  const beta = floatAttr(r.node, "beta", 1);
  const ta = intAttr(r.node, "transA", 0);
  const tb = intAttr(r.node, "transB", 0);
  const product = (a: Value, b: Value, transA: number, transB: number) =>
    r.e.op("Gemm", [a, b], { transA, transB, alpha: { kind: "float", value: alpha } });
  const out: (Value | undefined)[] = [undefined, undefined, undefined];
  if (r.need(0)) out[0] = ta ? product(r.x(1), r.dy(), tb, 1) : product(r.dy(), r.x(1), 0, 1 - tb);
  if (r.need(1)) out[1] = tb ? product(r.dy(), r.x(0), 1, ta) : product(r.x(0), r.dy(), 1 - ta, 0);
  if (r.need(2)) out[2] = r.unbroadcast(r.mul(r.dy(), beta), r.x(2));
  return out;
};

/**
 * Sum of products over labels: the gradient of one operand is the same sum with that operand and the output swapped. Labels that only
 * that operand has were summed alone: their gradient is repeated.
 */
export const einsum: Rule = (r) => {
  const e = r.e;
  const { inputs, output } = labels(r, stringAttr(r.node, "equation", ""));
  return r.node.inputs.map((x, i) => {
    if (!x || !r.need(i)) return undefined;
    const own = inputs[i]!;
    if (new Set(own).size !== own.length) r.refuse(`Einsum takes a diagonal: "${own}"`);
    const others = inputs.filter((_, j) => j !== i);
    const seen = new Set([...output, ...others.join("")]);
    const reach = [...own].filter((l) => seen.has(l)).join("");
    const values = [r.dy(), ...r.node.inputs.filter((_, j) => j !== i)];
    let g = e.op("Einsum", values, { equation: `${[output, ...others].join(",")}->${reach}` });
    if (reach !== own) {
      const missing = [...own].flatMap((l, at) => (seen.has(l) ? [] : [at]));
      g = e.op("Expand", [e.op("Unsqueeze", [g, e.ints(missing)]), e.shapeValue(x)]);
    }
    return e.like(g, x);
  });
};

/** The equation with every ellipsis written out in capital letters counted from the right, and the implicit output made explicit. */
function labels(r: Row, equation: string): { readonly inputs: readonly string[]; readonly output: string } {
  const [left = "", right] = equation.replaceAll(" ", "").split("->");
  const terms = left.split(",");
  const free = [..."ZYXWVUTSRQPONMLKJIHGFEDCBA"].filter((l) => !equation.includes(l));
  let widest = 0;
  const expand = (term: string, rank: number | undefined) => {
    if (!term.includes("...")) return term;
    const n = rank === undefined ? widest : rank - (term.length - 3);
    widest = Math.max(widest, n);
    return term.replace("...", free.slice(0, n).reverse().join(""));
  };
  const inputs = terms.map((t, i) => expand(t, r.rank(r.x(i))));
  if (right !== undefined) return { inputs, output: expand(right, undefined) };
  const all = inputs.join("");
  const once = [...new Set(all)].filter((l) => all.split(l).length === 2 && !free.slice(0, widest).includes(l)).sort();
  return { inputs, output: free.slice(0, widest).reverse().join("") + once.join("") };
}
