"""PyTorch as a contestant: timm's EfficientNet with the notebook's head, and its DataLoader."""

import itertools
from collections.abc import Callable
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmark import shared
from experiments.benchmark.shared import Contestant, Settings
from experiments.parity.torch_head import FerNet, load, torchvision_without_operators

with torchvision_without_operators():
    import timm  # noqa: F401  # which `load` wants too
    from torchvision.transforms import v2

GREY = 128  # fills what is erased or moved in; ours takes the image's mean and mirrors
BILINEAR = v2.InterpolationMode.BILINEAR
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
Pair = tuple[torch.Tensor, torch.Tensor]


def make(task: str, settings: Settings, options: dict[str, Any]) -> Contestant:
    """`train`, `infer`, `latency` or `pipeline`."""
    torch.set_num_threads(options.get("threads", 1))  # a pipeline's images are small
    torch.set_float32_matmul_precision("high")  # as JAX computes float32 on a GPU
    torch.backends.cudnn.benchmark = True  # XLA, too, tries what is fastest
    if task == "pipeline":
        return pipeline(settings, options["workers"])
    return model(task, settings, options)


def model(task: str, settings: Settings, options: dict[str, Any]) -> Contestant:
    """Training or inference with the network in the layout, compiled or not, as options say."""
    layout = torch.channels_last if options.get("channels_last") else torch.contiguous_format
    net = load(settings.file(shared.TIMM))[0].train(task == "train")
    net = net.to(DEVICE, memory_format=layout)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1 - settings.values().bn_momentum
    torch._inductor.config.freezing = options.get("freezing", False)
    forward = torch.compile(net, mode=options.get("mode")) if options.get("compiled") else net

    def place(batch: shared.Batch) -> Pair:
        """uint8 [B, 3, H, W] in the layout, int64 [B]."""
        image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(DEVICE)
        label = torch.from_numpy(batch["label"]).long().to(DEVICE)
        return image.contiguous(memory_format=layout), label

    @torch.inference_mode()
    def infer(batch: Pair) -> torch.Tensor:
        return forward(scaled(batch[0])).softmax(-1)

    where = ("gpu", torch.cuda.get_device_name()) if GPU else ("cpu", "cpu")
    about = shared.about(*where, torch.get_num_threads(), "torch", "timm")
    wait = lambda result: torch.cuda.synchronize() if GPU else None  # noqa: E731
    more: dict[str, Any] = {"about": about, "wait": wait}
    if task == "train":
        return shared.training(place, step_of(settings, net, forward), settings, **more)
    return shared.inference(place, infer, settings, task == "latency", torch.Tensor.cpu, **more)


def step_of(settings: Settings, net: FerNet, forward: Any) -> Callable[[Pair], torch.Tensor]:
    """One step of Adam, fused, PyTorch's fastest; returns the loss before the update."""
    values = settings.values()
    rates = {"lr": values.learning_rate, "betas": (values.momentum, values.b2)}
    optimizer = torch.optim.Adam(net.parameters(), **rates, eps=values.epsilon, fused=True)

    def step(batch: Pair) -> torch.Tensor:
        loss = F.cross_entropy(forward(scaled(batch[0])), batch[1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def scaled(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 on the scale 0..1, as the config without weights wants it."""
    return images.float() / 255


class Faces(torch.utils.data.Dataset):
    """Image and label in memory, moved at random at each access."""

    def __init__(self, settings: Settings) -> None:
        self.faces, self.transform = shared.faces(), transforms(settings)

    def __len__(self) -> int:
        return len(self.faces["label"])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = PIL.Image.fromarray(self.faces["image"][index])  # faster than tensors
        return self.transform(image), int(self.faces["label"][index])


def transforms(settings: Settings) -> v2.Compose:
    """All that ours does; moved at the small size, then enlarged, which is the fastest order."""
    values, shift = settings.values(), settings.values().translation
    zooms = 1 / (1 + values.zoom), 1 / (1 - values.zoom)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5 if values.flip else 0.0),
            v2.RandomAffine(360 * values.rotation, (shift, shift), zooms, None, BILINEAR, GREY),
            v2.ColorJitter(brightness=values.brightness, contrast=values.contrast),
            v2.Resize((settings.size, settings.size), BILINEAR, antialias=True),
            v2.PILToTensor(),
            v2.RandomErasing(values.erasing, values.erased_area, values.erased_aspect, GREY),
        ]
    )


def pipeline(settings: Settings, workers: int) -> Contestant:
    """Endless epochs of shuffled batches: uint8 [B, 1, S, S]."""
    dataset = Faces(settings)
    loader = torch.utils.data.DataLoader(
        dataset,
        settings.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    stream = (image for epoch in itertools.repeat(loader) for image, _ in epoch)
    about = shared.about("cpu", "cpu", workers + 1, "torch", "torchvision")
    untimed = 8 * max(1, workers)  # more than is made ahead
    return shared.pipeline(stream, settings, about=about, untimed=untimed)
