import { intAttr } from "../../graph/attr.ts";
import { type Model, type Node, opsetOf } from "../../graph/ir.ts";
import { opFacts } from "../../graph/ops/index.ts";
import { allNodes } from "../../graph/walk.ts";
import type { TargetName } from "../../plan/target.ts";
import { DTYPES, type DType, INT_DTYPES, isIntDType } from "../../quant/dtype.ts";
import { codeType, constantNumbers, isDequantize, isQuantize, operandOf, quantizers, shapeOf, typeOf } from "./trace.ts";
import type { LintRule } from "./types.ts";

const SELECTORS = "onnxruntime core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc; experiment with 1.30";
const KERNELS = "onnxruntime 1.30: registered kernels";
const ALL: readonly TargetName[] = ["portable", "ort-cpu", "ort-cuda", "ort-webgpu"];
const CPU: readonly TargetName[] = ["ort-cpu"];
const CUDA: readonly TargetName[] = ["ort-cuda"];
const GPU: readonly TargetName[] = ["ort-cuda", "ort-webgpu"];
const WEBGPU: readonly TargetName[] = ["ort-webgpu"];
const opset = (m: Model): number => opsetOf(m) ?? 1;
const isProduct = (n: Node): boolean => n.domain === "" && opFacts(n)?.trait === "compute";
const FLOAT8: ReadonlySet<DType> = new Set(["float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"]);
const NO_IO: ReadonlySet<DType> = new Set(["int4", "uint4", "int2", "uint2", "bfloat16", "float4e2m1", "float8e8m0", ...FLOAT8]);

/** The Q that reads a value alone. */
function onlyQuantizer(n: Node): Node | undefined {
  const out = n.outputs[0];
  const user = out && !out.isOutput && out.uses.length === 1 ? out.uses[0]!.node : undefined;
  return isQuantize(user) ? user : undefined;
}

export const ORT_RULES: readonly LintRule[] = [
  {
    id: "ORT01",
    kind: "reject",
    targets: ALL,
    title: "the opset or IR version is newer than onnxruntime's",
    remedy: "Write the model at opset 26 and IR 13 or below.",
    source: "experiment: onnxruntime 1.30 refuses IR 14 and opset 27",
    *check(model) {
      if (model.irVersion > 13) yield { at: undefined, text: `IR version ${model.irVersion}` };
      if (opset(model) > 26) yield { at: undefined, text: `opset ${opset(model)}` };
    },
  },
  {
    id: "ORT02",
    kind: "reject",
    targets: ALL,
    title: "a graph input or output of this type cannot cross the border",
    remedy: "Cast it inside the graph.",
    source: "experiment: onnxruntime-node 1.30 (a 4-bit output ends the process)",
    *check(model) {
      for (const v of [...model.graph.inputs, ...model.graph.outputs]) {
        const t = typeOf(v);
        if (t && NO_IO.has(t)) yield { at: v.producer ?? v.uses[0]?.node, text: `"${v.name}" is ${t}` };
      }
    },
  },
  {
    id: "ORT03",
    kind: "reject",
    targets: ALL,
    title: "no kernel for this Q or DQ",
    remedy: "Use int8 or uint8 codes with float32 scales.",
    source: `${KERNELS}: no float4, no bfloat16 scales`,
    *check(model) {
      for (const n of quantizers(model)) {
        const t = codeType(n);
        const s = n.inputs[1] && typeOf(n.inputs[1]);
        if (t === "float4e2m1" || t === "float8e8m0") yield { at: n, text: `${t} codes` };
        else if (s === "bfloat16") yield { at: n, text: "bfloat16 scales" };
      }
    },
  },
  {
    id: "ORT04",
    kind: "reject",
    targets: ["portable", "ort-cpu"],
    title: "float8 on both sides of a product does not load at level extended and above",
    remedy: "Load it at level basic, or with session.disable_quant_qdq = 1.",
    source: "experiment with onnxruntime 1.30: fused to QLinear operators of a type that they do not have",
    *check(model) {
      for (const n of allNodes(model)) {
        if (!isProduct(n)) continue;
        const [x, w] = [operandOf(n.inputs[0], opset(model)), operandOf(n.inputs[1], opset(model))];
        if (x?.dtype && w?.dtype && FLOAT8.has(x.dtype) && FLOAT8.has(w.dtype)) yield { at: n, text: `${x.dtype} operands` };
      }
    },
  },
  {
    id: "ORT05",
    kind: "reject",
    targets: ["portable", "ort-cpu"],
    title: "int8 activations, a product of rank 3 and a sum do not load on x64 at opset 21 and above",
    remedy: "Use uint8 activations, or opset 19.",
    source: 'experiment with onnxruntime 1.30: "gemm_input_reshape_arg_q .. output_dtype INT8 does not match y_zero_point type UINT8"',
    *check(model) {
      if (opset(model) < 21) return;
      for (const n of allNodes(model)) {
        if (n.op !== "MatMul" || n.domain !== "" || (shapeOf(n.inputs[0])?.length ?? 0) < 3) continue;
        const x = operandOf(n.inputs[0], opset(model));
        const sum = n.outputs[0]!.uses.length === 1 ? n.outputs[0]!.uses[0]!.node : undefined;
        if (
          x?.dtype === "int8" &&
          !x.constant &&
          sum?.op === "Add" &&
          sum.inputs.some((v) => v !== n.outputs[0] && (v?.data || operandOf(v, opset(model))?.constant))
        )
          yield { at: n, text: "MatMul and Add become a Gemm" };
      }
    },
  },
  {
    id: "ORT30",
    kind: "slow",
    targets: CPU,
    title: "a Conv between DQ without a Q behind it runs in float, its weight dequantized at each run",
    remedy: "Quantize its output, or leave the node in float.",
    source: `${SELECTORS}: QLinearConv needs a Q on the output`,
    *check(model) {
      for (const n of allNodes(model)) {
        if (n.op !== "Conv" || n.domain !== "") continue;
        const [x, w] = [operandOf(n.inputs[0], opset(model)), operandOf(n.inputs[1], opset(model))];
        if (!w || (x && (onlyQuantizer(n) || clampThenQuantizer(n)))) continue;
        yield { at: n, text: x ? "no Q on the output" : "its activation is float" };
      }
    },
  },
  {
    id: "ORT31",
    kind: "slow",
    targets: CPU,
    title: "a clamp in front of a Q that does not saturate where it does keeps the node before it from fusing",
    remedy: "Give the Q a range that ends where the clamp does: for Relu a zero point at the lowest code.",
    source: "onnxruntime ReluQuantFusion, ClipQuantFusion",
    *check(model) {
      for (const n of allNodes(model)) {
        if (n.op !== "Relu" || n.domain !== "" || !isProduct(n.inputs[0]?.producer ?? n)) continue;
        const q = onlyQuantizer(n);
        const t = q && codeType(q);
        if (!q || !t || !isIntDType(t) || !operandOf(n.inputs[0]!.producer!.inputs[0], opset(model))) continue;
        const z = q.inputs[2] ? constantNumbers(q.inputs[2])?.[0] : 0;
        if (z !== undefined && z !== INT_DTYPES[t].min) yield { at: n, text: `zero point ${z} of ${t}` };
      }
    },
  },
  {
    id: "ORT32",
    kind: "slow",
    targets: CPU,
    title: "16-bit activations never fuse",
    remedy: "Use uint8 activations.",
    source: SELECTORS,
    *check(model) {
      for (const n of quantizers(model))
        if (isQuantize(n) && ["int16", "uint16"].includes(codeType(n) ?? "")) yield { at: n, text: codeType(n)! };
    },
  },
  {
    id: "ORT33",
    kind: "slow",
    targets: CPU,
    title: "a sum or product with one quantized input is not fused",
    remedy: "Quantize both inputs and the output, or none.",
    source: `${SELECTORS}: QLinearAdd, QLinearMul`,
    *check(model) {
      for (const n of allNodes(model)) {
        if ((n.op !== "Add" && n.op !== "Mul") || n.domain !== "") continue;
        const sides = n.inputs.map((v) => operandOf(v, opset(model)));
        const some = sides.filter((s) => s !== undefined).length;
        if (some === 1) yield { at: n, text: "one input" };
        else if (some === 2 && !onlyQuantizer(n) && !clampThenQuantizer(n)) yield { at: n, text: "no Q on the output" };
      }
    },
  },
  {
    id: "ORT34",
    kind: "slow",
    targets: CPU,
    title: "int8 activations are rewritten to uint8 at load; weights of int8 against them halve the speed where that fails",
    remedy: "Use uint8 activations.",
    source: "measured with onnxruntime 1.30 on AVX512-VNNI: FastestDet 1.98 times the float time with int8, 1.04 with uint8 activations",
    *check(model) {
      for (const n of quantizers(model)) {
        if (isQuantize(n) && codeType(n) === "int8" && !n.inputs[0]?.data) {
          yield { at: n, text: "int8 activation" };
          return;
        }
      }
    },
  },
  {
    id: "ORT35",
    kind: "slow",
    targets: CPU,
    title: "QLinearAveragePool is many times slower than the float kernel",
    remedy: "Leave the pool in float.",
    source: "measured, onnxruntime 1.30: 268 against 8 microseconds, 3x3, 48 channels, 44x44",
    *check(model) {
      for (const n of allNodes(model))
        if (n.op === "AveragePool" && operandOf(n.inputs[0], opset(model)) && onlyQuantizer(n)) yield { at: n, text: "between DQ and Q" };
    },
  },
  {
    id: "ORT36",
    kind: "slow",
    targets: CPU,
    title: "the 8-bit kernel is slower than the float one at these channels",
    remedy: "Leave the node in float.",
    source: "measured, onnxruntime 1.30: see the target's table",
    *check(model, target) {
      for (const n of allNodes(model)) {
        const slow = target.rows.find((r) => r.ops.includes(n.op) && r.slow)?.slow;
        const shape = slow && n.domain === "" ? shapeOf(n.inputs[1]) : undefined;
        const groups = intAttr(n, "group", 1);
        if (!slow || !shape || !operandOf(n.inputs[0], opset(model))) continue;
        if (
          groups === 1 &&
          slow.inputChannelsBelow !== undefined &&
          shape[1] !== undefined &&
          shape[1] < slow.inputChannelsBelow &&
          shape.slice(1).reduce<number>((a, b) => a * (b ?? 1), 1) < (slow.sumsBelow ?? Number.POSITIVE_INFINITY)
        )
          yield { at: n, text: `${shape[1]} input channels` };
        else if (groups > 1 && shape[1] === 1 && slow.depthwiseMultipleOf !== undefined && (shape[0] ?? 0) % slow.depthwiseMultipleOf !== 0)
          yield { at: n, text: `${shape[0]} channels, depthwise` };
      }
    },
  },
  {
    id: "ORT50",
    kind: "slow",
    targets: CUDA,
    title: "Q and DQ are kernels of their own here: a float network is faster",
    remedy: "Use fp16, or 4-bit weights alone for products of few rows.",
    source: "measured on an H100 with onnxruntime-gpu 1.31: 1.5 to 5.7 times slower than float",
    *check(model) {
      for (const n of quantizers(model))
        if (isQuantize(n) && !n.inputs[0]?.data) yield { at: n, text: `activation in ${codeType(n) ?? "codes"}` };
    },
  },
  {
    id: "ORT51",
    kind: "slow",
    targets: CUDA,
    title: "Q and DQ of opset 23 and above have no CUDA kernel: they run on the CPU, with copies",
    remedy: "Write the model at opset 21.",
    source: "onnxruntime docs/OperatorKernels.md",
    *check(model) {
      if (opset(model) < 23) return;
      for (const n of quantizers(model)) yield { at: n, text: `opset ${opset(model)}` };
    },
  },
  {
    id: "ORT52",
    kind: "slow",
    targets: GPU,
    title: "a bias as int32 codes is dequantized on the CPU, and forbids CUDA graphs",
    remedy: "Keep the bias in float.",
    source: "measured on an H100: 37 DequantizeLinear and 37 copies a run",
    *check(model) {
      for (const n of quantizers(model)) if (isDequantize(n) && codeType(n) === "int32") yield { at: n, text: "int32 codes" };
    },
  },
  {
    id: "ORT53",
    kind: "slow",
    targets: GPU,
    title: "an 8-bit weight behind a DequantizeLinear is unpacked at each run",
    remedy: "Use MatMulNBits, or float16 weights.",
    source: "measured on an H100: 58 of 77 microseconds a product",
    *check(model) {
      for (const n of allNodes(model)) {
        if (!isProduct(n)) continue;
        const w = operandOf(n.inputs[1], opset(model));
        if (w?.constant && w.dtype && DTYPES[w.dtype].bits === 8) yield { at: n, text: `${w.dtype} weight` };
      }
    },
  },
  {
    id: "ORT70",
    kind: "slow",
    targets: WEBGPU,
    title: "no WebGPU kernel: it runs on the CPU, with a copy each way",
    remedy: "Quantize weights alone.",
    source: "experiment with onnxruntime-node 1.30",
    *check(model) {
      const cpu = new Set(["QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"]);
      for (const n of allNodes(model))
        if (cpu.has(n.op) || (n.domain === "com.microsoft" && n.op.startsWith("QLinear"))) yield { at: n, text: n.op };
    },
  },
  {
    id: "ORT71",
    kind: "slow",
    targets: WEBGPU,
    title: "this DequantizeLinear runs on the CPU",
    remedy: "Use int8, uint8, int4 or uint4 codes at opset 23 or below.",
    source: "experiment with onnxruntime-node 1.30: opset 24 and 25, 16 bit, float8 and 2 bit fall to the CPU",
    *check(model) {
      for (const n of quantizers(model)) {
        if (!isDequantize(n)) continue;
        const t = codeType(n);
        if (opset(model) >= 24) yield { at: n, text: `opset ${opset(model)}` };
        else if (t && !["int8", "uint8", "int4", "uint4", "int32"].includes(t)) yield { at: n, text: `${t} codes` };
      }
    },
  },
  {
    id: "ORT72",
    kind: "slow",
    targets: WEBGPU,
    title: "a 4-bit DequantizeLinear and its product are not fused",
    remedy: "Write MatMulNBits itself, with blocks of 32.",
    source: "measured on an H100: 1.9 ms more a product than MatMulNBits at M = 1",
    *check(model) {
      for (const n of allNodes(model)) {
        if (!isProduct(n)) continue;
        const w = operandOf(n.inputs[1], opset(model));
        if (w?.constant && w.dtype && DTYPES[w.dtype].bits === 4) yield { at: n, text: `${w.dtype} weight` };
      }
    },
  },
];

/** A clamp behind the node, and a Q behind it. */
function clampThenQuantizer(n: Node): boolean {
  const out = n.outputs[0];
  const user = out && !out.isOutput && out.uses.length === 1 ? out.uses[0]!.node : undefined;
  return user !== undefined && opFacts(user)?.trait === "clamp" && onlyQuantizer(user) !== undefined;
}
