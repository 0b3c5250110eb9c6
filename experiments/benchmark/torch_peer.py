"""PyTorch as a contestant: timm's EfficientNet with the seed's head, Adam, every setting named."""

import contextlib
import shutil
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmark import inputs
from experiments.benchmark.agreement import one_logits
from experiments.benchmark.settings import Settings, config_of
from experiments.parity.torch_head import FerHead, FerNet, torchvision_without_operators

with torchvision_without_operators():
    import timm

COMPILERS = ("g++", "c++", "clang++")


def make(task: str, settings: Settings, options: dict[str, Any]) -> Any:
    """`export` writes the ONNX file; the others take turns."""
    torch.set_num_threads(options["threads"])
    if options.get("compiled") and not any(map(shutil.which, COMPILERS)):
        raise RuntimeError(f"torch.compile needs a C++ compiler, none of {', '.join(COMPILERS)}")
    if task == "export":
        export(settings)
        task = "infer"
    return {"train": Train, "infer": Infer, "latency": Latency}[task](settings, options)


def network(settings: Settings, dropout: bool = True) -> FerNet:
    """The shared weights, with the config's BatchNorm and head; on the CPU."""
    model = config_of(settings, dropout=dropout).model
    backbone = timm.create_model(
        f"tf_efficientnet_{settings.variant}",
        num_classes=0,
        drop_rate=0.0,
        drop_path_rate=0.0,
        bn_eps=model.bn_epsilon,
        bn_momentum=1 - model.bn_momentum,
    )
    head = FerHead(
        backbone.num_features,
        inputs.CLASSES,
        model.head_filters,
        model.hidden,
        padding=int(model.head_padding == "SAME"),
        dropout=model.dropout,
    )
    net = FerNet(backbone, head)
    net.load_file(safetensors.torch.load_file(settings.file(inputs.TIMM)))
    return net


def adam(settings: Settings, net: nn.Module) -> torch.optim.Adam:
    """Fused, PyTorch's fastest, with the config's values."""
    values = config_of(settings).optimizer
    return torch.optim.Adam(
        net.parameters(),
        lr=values.learning_rate,
        betas=(values.momentum, values.b2),
        eps=values.epsilon,
        fused=True,
    )


class Torch:
    """What all tasks share: the model in its layout, compiled or not, and batches beside it."""

    untimed = 1

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self.settings, self.examples = settings, settings.batch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        last = options.get("layout") == "channels_last"
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.net = self.placed(network(settings))
        self.forward = self.net
        torch.backends.cudnn.benchmark = True  # XLA, too, tries what is fastest
        if options.get("compiled"):
            torch._inductor.config.freezing = options.get("freezing", False)
            self.forward = torch.compile(self.net, mode=options.get("mode"))
        self.batches = [self.on_device(batch) for batch in inputs.step_batches(settings)]
        torch.set_float32_matmul_precision("high")  # as JAX computes float32 on a GPU

    def about(self) -> dict[str, Any]:
        """Where PyTorch computes."""
        gpu = self.device.type == "cuda"
        return {
            "platform": "gpu" if gpu else "cpu",
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "versions": {"torch": torch.__version__, "timm": timm.__version__},
            "threads": torch.get_num_threads(),
        }

    def device_peak_mib(self) -> float | None:
        """Of the GPU."""
        if self.device.type == "cpu":
            return None
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)

    def extras(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    def placed(self, net: nn.Module) -> Any:
        """On the device, in the layout."""
        return net.to(self.device, memory_format=self.layout)

    def on_device(self, batch: inputs.Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, 3, H, W] in the layout, int64 [B]."""
        image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)
        image = image.to(self.device).contiguous(memory_format=self.layout)
        return image, torch.from_numpy(batch["label"]).long().to(self.device)

    def precision(self, dtype: str) -> Any:
        """Autocast for bfloat16."""
        if dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, dtype))

    def synchronize(self) -> None:
        """Wait for a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def inference(self, forward: nn.Module) -> dict[str, Any]:
        """Logits less their mean and loss of the first batch; of the timed precision too."""
        (image, label), found = self.batches[0], {}
        for dtype in dict.fromkeys(("float32", self.settings.dtype)):
            with torch.inference_mode(), exact(dtype), self.precision(dtype):
                logits = forward(scaled(image)).double()
            prefix = "" if dtype == "float32" else "low_precision_"
            centred = logits - logits.mean(-1, keepdim=True)
            found[f"{prefix}logits"] = centred.cpu().numpy().tolist()
            found[f"{prefix}loss"] = float(F.cross_entropy(logits, label))
        return found


class Train(Torch):
    """Training steps on batches that lie on the device."""

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        super().__init__(settings, options)
        self.net.train()
        self._optimizer, self._steps = adam(settings, self.net), 0

    def run(self, calls: int) -> None:
        """The last step is waited for."""
        for _ in range(calls):
            batch = self.batches[self._steps % len(self.batches)]
            self._steps += 1
            with self.precision(self.settings.dtype):
                loss = F.cross_entropy(self.forward(scaled(batch[0])), batch[1])
            step(self._optimizer, loss)
        self.synchronize()

    def answer(self) -> dict[str, Any]:
        """Inference, two losses without dropout, and what the timed step sees at its end."""
        last = self.net.backbone.bn2
        before = last.running_mean.clone()
        self.run(1)
        moved = (last.running_mean - (1 - last.momentum) * before) / last.momentum
        low = self.settings.dtype != "float32"
        statistics = {f"{'low_precision_' * low}statistics": moved.cpu().numpy().tolist()}
        plain = self.placed(network(self.settings, dropout=False)).eval()
        return {**self.inference(plain), **self._losses(plain.train()), **statistics}

    def _losses(self, net: nn.Module) -> dict[str, float]:
        optimizer, losses = adam(self.settings, net), []
        with exact("float32"):
            for image, label in self.batches[:2]:
                loss = F.cross_entropy(net(scaled(image)), label)
                step(optimizer, loss)
                losses.append(float(loss.detach()))
        return dict(zip(("train_loss", "later_loss"), losses, strict=True))


class Infer(Torch):
    """Inference on batches that lie on the device."""

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        super().__init__(settings, options)
        self.net.eval()

    def run(self, calls: int) -> None:
        """The last results are waited for."""
        with torch.inference_mode(), self.precision(self.settings.dtype):
            for call in range(calls):
                self.forward(scaled(self.batches[call % len(self.batches)][0])).softmax(-1)
        self.synchronize()

    def answer(self) -> dict[str, Any]:
        """Logits and loss, of the module that is timed."""
        return self.inference(self.forward)


class Latency(Infer):
    """One image from the host's memory to probabilities there."""

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        super().__init__(settings, options)
        self.examples = 1
        self._one = {k: v[:1] for k, v in inputs.step_batches(settings, 1)[0].items()}

    def answer(self) -> dict[str, Any]:
        """Logits and loss of a batch, for which nothing is compiled; logits of the one image."""
        found = self.inference(self.net)
        with torch.inference_mode(), self.precision(self.settings.dtype):
            return found | one_logits(self._call(), self.settings.dtype)

    def run(self, calls: int) -> None:
        """One after the other."""
        with torch.inference_mode(), self.precision(self.settings.dtype):
            for _ in range(calls):
                self._call()

    def _call(self) -> np.ndarray:
        image, _ = self.on_device(self._one)
        return self.forward(scaled(image)).softmax(-1).float().cpu().numpy()


class FromPixels(nn.Module):
    """uint8 [B, H, W, 3] -> probabilities [B, K]: the same job as ours, for ONNX."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scaling, the network, softmax."""
        return self.net(scaled(images.permute(0, 3, 1, 2))).softmax(-1)


def export(settings: Settings) -> None:
    """The network as ONNX, for any batch size."""
    images = torch.from_numpy(inputs.step_batches(settings, 1)[0]["image"])
    torch.onnx.export(
        FromPixels(network(settings)).eval(),
        (images,),
        settings.file(inputs.ONNX),
        dynamo=True,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
    )


def scaled(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 on the scale 0..1, as the config without weights wants it."""
    return images.float() / 255


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Gradients and one update."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@contextlib.contextmanager
def exact(dtype: str) -> Any:
    """Within: float32 without TF32, so that it can be compared."""
    if dtype != "float32" or not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
