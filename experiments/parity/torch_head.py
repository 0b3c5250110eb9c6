"""The notebook's head in PyTorch, for models that `fer_jax.convert --target=timm` writes.

    net, about = load("timm.safetensors")
    logits = net(scaled images [B, 3, H, W])

with (x / 255 - about["architecture"]["input_mean"]) / about["architecture"]["input_std"] of images
of about["image_size"] pixels, and about["labels"] for the logits.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import safetensors
import torch
from torch import nn


class FerHead(nn.Module):
    """[B, C, h, w] -> logits [B, classes]; its state dict is the file's `fer_head.*`."""

    def __init__(
        self,
        features: int,
        classes: int,
        filters: int,
        hidden: int,
        padding: int,  # 1 for a model with head_padding SAME, 0 for VALID
        dropout: float = 0.0,  # in training only
    ):
        super().__init__()
        self.conv = nn.Conv2d(features, filters, 3, padding=padding)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(filters, hidden)
        self.logits = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolution, ReLU, mean over the map, Dense, ReLU, dropout, Dense."""
        x = self.conv(x).relu().mean((2, 3))
        return self.logits(self.dropout(self.hidden(x).relu()))


class FerNet(nn.Module):
    """timm's backbone and the head: `load_state_dict` takes the exported file."""

    def __init__(self, backbone: nn.Module, head: FerHead):
        super().__init__()
        self.backbone, self.fer_head = backbone, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled images [B, 3, H, W] -> logits [B, classes]."""
        return self.fer_head(self.backbone.forward_features(x))

    def load_file(self, state: dict[str, torch.Tensor]) -> None:
        """Strictly, the backbone's part and the head's."""
        prefix = "fer_head."
        head = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.fer_head.load_state_dict(head)
        self.backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith(prefix)})


def load(path: str | pathlib.Path) -> tuple[FerNet, dict[str, Any]]:
    """The network of an exported file, ready to answer, and the header that describes it."""
    import timm

    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = json.loads(metadata["fer_jax"])
    settings = about["architecture"]
    head = settings["head"]
    epsilon = settings["bn_epsilon"]
    backbone = timm.create_model(metadata["architecture"], num_classes=0, bn_eps=epsilon)
    sizes = head["classes"], head["filters"], head["hidden"], int(head["padding"] == "SAME")
    net = FerNet(backbone, FerHead(backbone.num_features, *sizes))
    net.load_file(state)
    return net.eval(), about


@contextlib.contextmanager
def torchvision_without_operators() -> Iterator[None]:
    """Within: torchvision imports beside a CPU-only torch, without its compiled operators."""
    original = torch.library.register_fake

    def register(op: object, *args: object, **kwargs: object) -> object:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return original(op, *args, **kwargs)  # type: ignore[arg-type]

    torch.library.register_fake = register
    try:
        yield
    finally:
        torch.library.register_fake = original
