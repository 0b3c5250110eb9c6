"""PyTorch's DataLoader with torchvision's transforms: the same augmentation, batch by batch."""

import itertools
from collections.abc import Iterator
from typing import Any

import PIL.Image
import torch

from experiments.benchmark import inputs
from experiments.benchmark.settings import Settings, config_of
from experiments.parity.torch_head import torchvision_without_operators
from fer_jax.data.augment import ERASED_AREA, ERASED_ASPECT

with torchvision_without_operators():
    import torchvision
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

GREY = 128  # fills what is erased or moved in; ours takes the image's mean and mirrors
BILINEAR = v2.InterpolationMode.BILINEAR


def make(task: str, settings: Settings, options: dict[str, Any]) -> Any:
    """`pipeline` alone."""
    assert task == "pipeline"
    torch.set_num_threads(1)  # images are small: more cost more than they give
    return Pipeline(settings, options)


class Faces(torch.utils.data.Dataset):
    """Image and label in memory, moved at random at each access."""

    def __init__(self, faces: inputs.Batch, transform: v2.Compose, pillow: bool) -> None:
        self._label, self._transform = faces["label"], transform
        self._images = faces["image"] if pillow else torch.from_numpy(faces["image"])[:, None]
        self._pillow = pillow

    def __len__(self) -> int:
        return len(self._label)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self._images[index]
        image = PIL.Image.fromarray(image) if self._pillow else image
        return self._transform(image), int(self._label[index])


class Pipeline:
    """Endless epochs of shuffled batches: uint8 [B, 1, S, S] and labels."""

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings, self._options, self.examples = settings, options, settings.batch
        faces = inputs.shared_faces(settings)
        pillow = options["images"] == "pillow"
        self._loader = torch.utils.data.DataLoader(
            Faces(faces, transforms(settings, pillow), pillow),
            batch_size=settings.batch,
            shuffle=True,
            drop_last=True,
            num_workers=options["workers"],
            persistent_workers=options["workers"] > 0,
        )
        self.untimed = 8 * max(1, options["workers"])  # more than is made ahead
        self._plain = faces["image"][: inputs.PLAIN]
        self._stream = self._forever()

    def about(self) -> dict[str, Any]:
        """Always the CPU."""
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        workers = self._options["workers"]
        return {"platform": "cpu", "device": "cpu", "versions": versions, "threads": workers + 1}

    def extras(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    def run(self, calls: int) -> None:
        """Batches are dropped."""
        for _ in range(calls):
            next(self._stream)

    def answer(self) -> dict[str, Any]:
        """Images as they are, and grey levels of augmented ones."""
        size = self._settings.size
        resized = functional.resize(
            torch.from_numpy(self._plain)[:, None], [size, size], BILINEAR, antialias=True
        )
        seen = [image.numpy() for image, _ in itertools.islice(self._stream, inputs.SAMPLED)]
        shapes = {image.shape for image in seen}
        assert shapes == {(self.examples, 1, size, size)}, shapes
        return {"plain": resized[:, 0].numpy().tolist(), **inputs.grey_levels(seen)}

    def _forever(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self._loader


def transforms(settings: Settings, pillow: bool) -> v2.Compose:
    """All that ours does; moved at the small size, then enlarged, which is the fastest order."""
    values = config_of(settings).augment
    low, high = 1 / (1 + values.zoom), 1 / (1 - values.zoom)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5 if values.flip else 0.0),
            v2.RandomAffine(
                degrees=360 * values.rotation,
                translate=(values.translation, values.translation),
                scale=(low, high),
                interpolation=BILINEAR,
                fill=GREY,
            ),
            v2.ColorJitter(brightness=values.brightness, contrast=values.contrast),
            v2.Resize((settings.size, settings.size), BILINEAR, antialias=True),
            *([v2.PILToTensor()] if pillow else []),
            v2.RandomErasing(values.erasing, ERASED_AREA, ERASED_ASPECT, GREY),
        ]
    )
