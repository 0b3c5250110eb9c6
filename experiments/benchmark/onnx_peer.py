"""ONNX Runtime as a contestant in inference, with the file that fer_jax exports.

For one image that takes 0.91 of the processor time of the file that PyTorch exports, for 16 0.97.
"""

from typing import Any

import numpy as np
import onnxruntime

from experiments.benchmark import shared
from experiments.benchmark.shared import Batch, Contestant, Settings

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def make(task: str, settings: Settings, options: dict[str, Any]) -> Contestant:
    """Batches, or one image for `latency`; both from the host's memory, and back to it."""
    chosen = onnxruntime.SessionOptions()  # with all of the runtime's optimizations
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = options["threads"], 1
    available = onnxruntime.get_available_providers()
    providers = [name for name in PROVIDERS if name in available]
    path = settings.file(shared.ONNX)
    session = onnxruntime.InferenceSession(path, chosen, providers)

    def infer(batch: Batch) -> np.ndarray:
        return session.run(["probabilities"], {"images": batch["image"]})[0]

    used = session.get_providers()[0]
    platform = "gpu" if used == PROVIDERS[0] else "cpu"
    about = shared.about(platform, used, options["threads"], "onnxruntime")
    return shared.inference(dict, infer, settings, task == "latency", about=about)
