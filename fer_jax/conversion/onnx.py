"""Models as ONNX files: uint8 faces in, logits and probabilities out, labels in the metadata.

Written node by node, [B, C, H, W] inside as runtimes want it. Kernels are stored in float32, in
float16, or as int8 with a scale per output channel; everything is computed in float32. Of B2 a
tenth of the weights make three quarters of the error: small kernels (all depthwise ones, the first
stages, most gates), which are stored one precision wider.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from fer_jax import model_file
from fer_jax.errors import UserError, optional
from fer_jax.model_file import LEAST, About, ModelFile
from fer_jax.models import folded
from fer_jax.models.convolution import Padding
from fer_jax.outputs import in_one_step

OPSET, IR_VERSION = 17, 8  # old enough for most runtimes
PRECISIONS = ("float32", "float16", "int8")  # each narrower than the one before
# Without it ONNX Runtime answers one image 2.8 times slower where weights alone are int8.
SESSION_OPTION = "session.disable_quant_qdq"
LARGEST_HALF, LARGEST_INT8 = 65504, 127
SMALL = 50_000  # values; measured: docs/export.md
AUTO_PAD = {"SAME": "SAME_UPPER", "VALID": "VALID"}


def export_onnx(path: pathlib.Path, file: ModelFile, precision: str = "float32") -> None:
    """Input `images` uint8 [B, S, S, 3]; outputs `logits` and `probabilities` float32 [B, K].

    Probabilities are calibrated. UserError without a head, or where a kernel does not fit into
    float16.
    """
    onnx = optional("onnx", "export", "writing ONNX files")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in said_of(file).items()}
    texts |= model_file.metadata(dataclasses.replace(file, train_hashes=None))  # they stay at home
    if precision == "int8":
        texts[SESSION_OPTION] = "1"
    model, side = file.model(), file.about.image_size
    graph = _Graph(onnx, folded.fold(model, file.variables), precision)
    folded.network(model, graph, "images")

    # The last node's output is the graph's.
    graph.nodes[-1].output[0] = "logits"
    classes = model.head.classes  # type: ignore[union-attr]
    graph.node("Softmax", _calibrated(graph, "logits", file.about, classes), axis=1)
    graph.nodes[-1].output[0] = "probabilities"

    proto = graph.proto(side, classes, texts)
    onnx.checker.check_model(proto)
    in_one_step(path, lambda temporary: onnx.save(proto, temporary))


def _calibrated(graph: "_Graph", logits: str, about: About, classes: int) -> str:
    """As model_file.calibrated does it."""
    if about.temperature is None:
        return logits
    if about.label_smoothing:
        taught = graph.constant("taught", np.float32(about.label_smoothing / classes))
        shares = graph.node("Sub", graph.node("Softmax", logits, axis=1), taught)
        shares = graph.node("Max", shares, graph.constant("least", np.float32(LEAST)))
        logits = graph.node("Log", shares)
    return graph.node("Div", logits, graph.constant("temperature", np.float32(about.temperature)))


def said_of(file: ModelFile) -> dict[str, Any]:
    """What an export says of its model beside our header; UserError headless."""
    about = file.about
    if about.architecture["head"] is None:
        raise UserError("a model without a head has no answers to export: keep it in our format")
    return {
        "labels": about.labels,
        "temperature": about.temperature or 1.0,
        "label_smoothing": about.label_smoothing if about.temperature else 0.0,
        "image_size": about.image_size,
        "preprocessing": about.preprocessing,
        "licence": about.licence,
    }


class _Graph:
    """The operations of `folded.network` as nodes of a graph, tensors by their names."""

    def __init__(self, onnx: Any, arrays: folded.Arrays, precision: str) -> None:
        self.onnx, self.arrays, self.precision = onnx, arrays, precision
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append one; its output's name."""
        name = f"{kind}_{len(self.nodes)}"
        made = self.onnx.helper.make_node(kind, inputs, [name], name, **attributes)
        self.nodes.append(made)
        return name

    def constant(self, name: str, array: Any) -> str:
        """Store one; its name."""
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def kernel(self, name: str, kernel: np.ndarray) -> str:
        """[D, C, k, k] stored in the wanted precision; the name of it in float32."""
        precision = self.precision
        if precision != "float32" and kernel.size <= SMALL:
            precision = PRECISIONS[PRECISIONS.index(precision) - 1]
        if precision == "float32":
            return self.constant(name, kernel)
        largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
        if precision == "float16":
            if largest.max() > LARGEST_HALF:
                raise UserError(f"{name} holds {largest.max():g}, too large for float16")
            stored = self.constant(name, kernel.astype(np.float16))
            return self.node("Cast", stored, to=self.onnx.TensorProto.FLOAT)
        scale = np.where(largest > 0, largest / LARGEST_INT8, 1).astype(np.float32)
        stored = self.constant(name, np.rint(kernel / scale).astype(np.int8))
        scales = self.constant(f"{name}/scale", scale.ravel())
        return self.node("DequantizeLinear", stored, scales, axis=0)

    def proto(self, side: int, classes: int, texts: dict[str, str]) -> Any:
        """The whole model, from `images` to `logits` and `probabilities`."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        images = helper.make_tensor_value_info("images", kinds.UINT8, ["batch", side, side, 3])
        answers = [
            helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", classes])
            for name in ("logits", "probabilities")
        ]
        graph = helper.make_graph(self.nodes, "fer_jax", [images], answers, self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        model.producer_name = "fer_jax"
        helper.set_model_props(model, texts)
        return model

    def shifted(self, images: str) -> str:
        x = self.node("Cast", images, to=self.onnx.TensorProto.FLOAT)
        x = self.node("Transpose", x, perm=[0, 3, 1, 2])
        offset = self.arrays[folded.OFFSET].reshape(1, 3, 1, 1)
        return self.node("Sub", x, self.constant(folded.OFFSET, offset)) if offset.any() else x

    def conv(self, x: str, layer: str, stride: int = 1, padding: Padding = "SAME") -> str:
        kernel = self.arrays[f"{layer}/kernel"]
        where: dict[str, Any] = (
            {"auto_pad": AUTO_PAD[padding]}
            if isinstance(padding, str)
            else {"pads": np.transpose(padding).ravel().tolist()}  # before, then after
        )
        return self.node(
            "Conv",
            x,
            self.kernel(f"{layer}/kernel", np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))),
            self.constant(f"{layer}/bias", self.arrays[f"{layer}/bias"]),
            kernel_shape=kernel.shape[:2],
            strides=[stride, stride],
            group=kernel.shape[3] if layer.endswith(folded.DEPTHWISE) else 1,
            **where,
        )

    def apply(self, function: folded.Function, x: str) -> str:
        if function == "relu6":
            if "six" not in {stored.name for stored in self.initializers}:
                self.constant("zero", np.float32(0))
                self.constant("six", np.float32(6))
            return self.node("Clip", x, "zero", "six")
        y = self.node("Relu" if function == "relu" else "Sigmoid", x)
        return self.node("Mul", x, y) if function == "swish" else y

    def mean(self, x: str) -> str:
        return self.node("GlobalAveragePool", x)

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def multiply(self, x: str, gates: str) -> str:
        return self.node("Mul", x, gates)

    def flat(self, x: str) -> str:
        return self.node("Flatten", x, axis=1)
