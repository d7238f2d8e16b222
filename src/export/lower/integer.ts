import { floatAttr, intAttr } from "../../graph/attr.ts";
import { transpose } from "../../graph/constant.ts";
import type { Graph, Node, Use, Value } from "../../graph/ir.ts";
import { floats, type TensorData } from "../../graph/tensor.ts";
import type { Coded } from "../../plan/codes.ts";
import { spread } from "../../plan/tensors.ts";
import { TOKEN_ZERO, tokenQuotient } from "../../plan/tokens.ts";
import { DTYPES, isIntDType } from "../../quant/dtype.ts";
import { behind, codesTensor, RULE } from "./emit.ts";
import { replaceOutput } from "./gather.ts";

/** What DynamicQuantizeLinear made of a value: codes, scale, zero point. Readers of one value share it. */
const SUFFIX = "_DynamicQuantizeLinear";

/**
 * Y = A·W + b with A quantized while running:
 *   Aq, s, z = DynamicQuantizeLinear(A);  Y = Cast(MatMulInteger(Aq, Wq, z)) * (s * sW) [+ b]
 * W int8 [K, N], or uint8 with a zero point; sW a scalar or [N]. The order of the two products of scales is the one that onnxruntime fuses.
 *
 * With `tokens` each row of A has its own scale (`tokenQuotient`) and the zero point in the middle: s […, 1].
 */
export function lowerMatMulInteger(c: Coded, uses: readonly Use[], tokens?: { readonly opset: number }): void {
  const { dtype } = c.site.scheme;
  if (!isIntDType(dtype)) throw new Error(`internal: codes of ${dtype}`);
  for (const { node, input } of uses) {
    const graph = node.graph;
    const gemm = node.attrs.has("transB") || node.attrs.has("alpha") || node.inputs[2] !== undefined;
    if (input !== 1 || intAttr(node, "transA", 0) !== 0 || floatAttr(node, "alpha", 1) !== 1 || floatAttr(node, "beta", 1) !== 1)
      throw new Error(`internal: "${node.name}" has no MatMulInteger form: the plan was not checked`);
    const flip = intAttr(node, "transB", 0) === 1;
    const [rows, columns] = [c.shape[0]!, c.shape[1]!];
    const codes = flip ? Int32Array.from(transpose(Float32Array.from(c.codes), c.shape, [1, 0])) : c.codes;
    const old = node.outputs[0]!;
    const stem = node.name !== "" ? node.name : old.name;
    const n = flip ? rows : columns;
    const weight = graph.constant(codesTensor(codes, flip ? [columns, rows] : c.shape, dtype), `${c.value.name}_quantized`);
    const scale = graph.constant(floats(spread(c.scale, c.scale.length), c.scale.length === 1 ? [] : [n]), `${c.value.name}_scale`);
    const zeros = spread(c.zeroPoint, c.scale.length);
    const zero = zeros.every((z) => z === 0)
      ? undefined
      : graph.constant(codesTensor(zeros, zeros.length === 1 ? [] : [n], dtype), `${c.value.name}_zero_point`);
    const dyn = tokens ? tokensOf(graph, node.inputs[0]!, tokens.opset) : dynamicOf(graph, node.inputs[0]!);
    const put = (op: string, inputs: (Value | undefined)[], hint: string, attrs: Record<string, number> = {}): Value =>
      graph.insertBefore(node, {
        op,
        name: `${stem}_${hint}`,
        inputs,
        outputs: [graph.freshName(`${old.name}_${hint}`)],
        attrs,
        origin: { rule: RULE, from: [stem] },
      }).outputs[0]!;
    const sums = put("MatMulInteger", zero ? [dyn[0], weight, dyn[2], zero] : [dyn[0], weight, dyn[2]], "sums");
    const real = put("Cast", [sums], "real", { to: DTYPES.float32.code });
    const scales = put("Mul", [dyn[1], scale], "scales");
    let out = put("Mul", [real, scales], "scaled");
    if (gemm && node.inputs[2]) out = put("Add", [out, node.inputs[2]], "biased");
    graph.setType(out, old.type);
    replaceOutput(node, old, out);
  }
}

/** The Cast to codes of a value's rows. Readers of one value share it. */
const TOKENS = "_tokens";

/** Codes, scales and the zero point of a value's rows. */
function tokensOf(graph: Graph, value: Value, opset: number): readonly [Value, Value, Value] {
  const known = value.uses.find((u) => u.node.op === "Div" && u.node.graph === graph && u.node.name === `${value.name}${TOKENS}_quotient`);
  if (known) {
    const quantize = known.node.outputs[0]!.uses[0]!.node;
    return [quantize.outputs[0]!, known.node.inputs[1]!, quantize.inputs[2]!];
  }
  let place = behind(graph, value);
  const node = (
    op: string,
    inputs: readonly Value[],
    hint: string,
    attrs: Readonly<Record<string, number | readonly number[]>> = {},
  ): Value => {
    const made = place({
      op,
      name: `${value.name}${TOKENS}_${hint}`,
      inputs: [...inputs],
      outputs: [graph.freshName(`${value.name}${TOKENS}_${hint}`)],
      attrs: { ...attrs },
      origin: { rule: RULE, from: [value.name] },
    });
    place = (spec) => graph.insertAfter(made, spec);
    return made.outputs[0]!;
  };
  const constant = (data: TensorData, hint: string) => graph.constant(data, `${value.name}${TOKENS}_${hint}`);
  const { quotient, scale } = tokenQuotient(value, { opset, node, constant });
  const zero = constant(codesTensor([TOKEN_ZERO], [], "uint8"), "zero_point");
  return [node("QuantizeLinear", [quotient, constant(floats([1], []), "one"), zero], "codes"), scale, zero];
}

function dynamicOf(graph: Graph, value: Value): readonly [Value, Value, Value] {
  const known = value.uses.find((u) => u.node.op === "DynamicQuantizeLinear" && u.node.graph === graph)?.node;
  const node: Node =
    known ??
    behind(
      graph,
      value,
    )({
      op: "DynamicQuantizeLinear",
      name: value.name + SUFFIX,
      inputs: [value],
      outputs: [
        graph.freshName(`${value.name}_quantized`),
        graph.freshName(`${value.name}_scale`),
        graph.freshName(`${value.name}_zero_point`),
      ],
      origin: { rule: RULE, from: [value.name] },
    });
  return [node.outputs[0]!, node.outputs[1]!, node.outputs[2]!];
}
