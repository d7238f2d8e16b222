"""Asks NVIDIA's parser and builder (pip: tensorrt-rtx-cu13-libs, tensorrt-rtx-cu13-bindings; no GPU needed) about ONNX files.
usage: builder.py ARCH FILE...   prints one JSON line a file: {"file", "taken", "error"}"""
import json
import sys

import tensorrt_rtx_bindings as trt


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, message):
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message)


log = Log()
arch = getattr(trt.ComputeCapability, sys.argv[1].upper())
for path in sys.argv[2:]:
    log.errors.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(path):
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(arch, 0)
        taken = builder.build_serialized_network(network, config) is not None
        error = "" if taken else " | ".join(log.errors)
    else:
        taken, error = False, "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    print(json.dumps({"file": path, "taken": taken, "error": error[:300]}), flush=True)
