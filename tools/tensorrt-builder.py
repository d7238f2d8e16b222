"""Asks NVIDIA's parser and builder about ONNX files; no GPU and no driver is needed.
Needs: pip install tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
usage: tensorrt-builder.py [--plan] ARCH FILE...
Prints one JSON line a file: {"file", "builder", "taken", "errors": [{"node", "op", "text"}], "warnings", "kernels"}; "kernels" (with --plan) are
what the engine runs, read from the build log: {"type", "inputs", "constants", "outputs", "layers"}, the latter the ONNX nodes in it."""
import json
import re
import sys

import tensorrt_rtx_bindings as trt


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, message):
        self.lines.append((severity, message))

    def of(self, *severities):
        return [m for s, m in self.lines if s in severities]


def operands(line):
    cuts = sorted((line.find(k + ": ["), k) for k in ("Inputs", "Constants", "Outputs", "TacticName") if k + ": [" in line)
    found = {}
    for (start, key), (end, _) in zip(cuts, cuts[1:] + [(len(line), "")]):
        found[key.lower()] = re.findall(r"Datatype: (\w+)", line[start:end])
    return {k: found.get(k, []) for k in ("inputs", "constants", "outputs")}


def kernels(log):
    for _, message in log.lines:
        for line in message.splitlines():
            head = re.match(r"\s*Name: [^,]+, LayerType: (\w+),", line)
            if head:
                yield {"type": head.group(1), **operands(line), "layers": re.findall(r"ONNX Layer: ([^\]\x1e]+)", line)}


def dynamic_profile(builder, network, config):
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    if any(-1 in tuple(i.shape) for i in inputs):
        profile = builder.create_optimization_profile()
        for i in inputs:
            if -1 in tuple(i.shape):
                profile.set_shape(i.name, *(tuple(n if d < 0 else d for d in i.shape) for n in (1, 8, 32)))
        config.add_optimization_profile(profile)


def ask(path, arch, plan):
    log = Log()
    answer = {"file": path, "builder": "TensorRT-RTX " + trt.__version__, "taken": False, "errors": [], "warnings": [], "kernels": []}
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(path):
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(arch, 0)
        if plan:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        dynamic_profile(builder, network, config)
        answer["taken"] = builder.build_serialized_network(network, config) is not None
        if not answer["taken"]:
            errors = log.of(trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            answer["errors"] = [{"node": "", "op": "", "text": e[:500]} for e in errors]
        elif plan:
            answer["kernels"] = list(kernels(log))
    else:
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        answer["errors"] = [{"node": e.node_name(), "op": e.node_operator(), "text": e.desc()[:500]} for e in errors]
    answer["warnings"] = sorted({w[:300] for w in log.of(trt.ILogger.WARNING)})[:8]
    return answer


def main(args):
    plan = args[:1] == ["--plan"]
    name, *files = args[1:] if plan else args
    arch = getattr(trt.ComputeCapability, name.upper(), None)
    if arch is None:
        known = [k for k in dir(trt.ComputeCapability) if k.startswith("SM")]
        sys.exit(f"the builder has no {name}; it has {', '.join(known)}")
    for path in files:
        print(json.dumps(ask(path, arch, plan)), flush=True)


main(sys.argv[1:])
