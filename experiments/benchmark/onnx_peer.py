"""ONNX Runtime as a contestant in inference, with the model that PyTorch has exported."""

from typing import Any

import numpy as np
import onnxruntime

from experiments.benchmark import inputs
from experiments.benchmark.agreement import one_logits
from experiments.benchmark.settings import Settings

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def make(task: str, settings: Settings, options: dict[str, Any]) -> Any:
    """`infer` takes batches, `latency` one image; both from the host's memory, and back to it."""
    return Session(settings, options, rows=1 if task == "latency" else settings.batch)


class Session:
    """The shared ONNX file with all of the runtime's optimizations."""

    untimed = 1

    def __init__(self, settings: Settings, options: dict[str, Any], rows: int) -> None:
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = options["threads"]
        self._options.inter_op_num_threads = 1
        available = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(
            settings.file(inputs.ONNX), self._options, [p for p in PROVIDERS if p in available]
        )
        self._name, self.examples = self._session.get_inputs()[0].name, rows
        self._batches = inputs.step_batches(settings)

    def about(self) -> dict[str, Any]:
        """Where the runtime computes."""
        provider = self._session.get_providers()[0]
        gpu = provider == PROVIDERS[0]
        return {
            "platform": "gpu" if gpu else "cpu",
            "device": provider,
            "versions": {"onnxruntime": onnxruntime.__version__},
            "threads": self._options.intra_op_num_threads,
        }

    def extras(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    def run(self, calls: int) -> None:
        """One after the other."""
        for call in range(calls):
            self._call(call)

    def answer(self) -> dict[str, Any]:
        """Logits less their mean and loss of the first batch; of one image too, if it is timed."""
        batch = self._batches[0]
        probabilities = self._session.run(None, {self._name: batch["image"]})[0]
        logits = np.log(probabilities.astype(np.float64))
        chosen = logits[np.arange(len(logits)), batch["label"]]
        centred = logits - logits.mean(-1, keepdims=True)
        found = {"logits": centred.tolist(), "loss": float(-chosen.mean())}
        return found | (one_logits(self._call(0), "float32") if self.examples == 1 else {})

    def _call(self, number: int) -> np.ndarray:
        images = self._batches[number % len(self._batches)]["image"][: self.examples]
        return self._session.run(None, {self._name: images})[0]
