"""Whether ImageNet weights are what they claim: photographs, asked of timm's model and of ours.

`.venv-parity/bin/python -m experiments.parity.photographs`, after `make pretrained`. The
photographs are those that scikit-image ships; timm's tf_efficientnet_lite2 takes the same file.
"""

import pathlib
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import skimage.data
import torch
from scipy.special import softmax

from experiments.parity.compare import answer
from experiments.parity.random_weights import relative
from experiments.parity.torch_head import torchvision_without_operators
from experiments.pretrained import OUTPUT, packaged_file
from fer_jax import model_file
from fer_jax.data.augment import resize
from fer_jax.outputs import write_text

with torchvision_without_operators():
    import timm
    from timm.data import ImageNetInfo

RESULT = pathlib.Path("runs/photographs/imagenet_lite2.md")
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "horse", "moon")
LIMIT, TOP = 1e-4, 3


def photographs(size: int) -> np.ndarray:
    """uint8 RGB [N, size, size, 3]: the middle square of each."""
    found = []
    for name in NAMES:
        image = np.asarray(getattr(skimage.data, name)())
        image = (image * 255).astype(np.uint8) if image.dtype == bool else image
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image[..., :3]
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        found.append(resize(image[top : top + side, left : left + side], size))
    return np.stack(found)


def timms(images: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """Logits [N, 1000] of timm's model, whose tensors lie in the order of the file's."""
    model = timm.create_model("tf_efficientnet_lite2").eval()
    state = torch.load(packaged_file(), map_location="cpu", weights_only=True)
    values = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    names = [k for k in model.state_dict() if not k.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    x = (images / 255 - np.array(mean)) / np.array(std)
    with torch.no_grad():
        return model(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()


def main() -> int:
    """Ask both, write the table; 1 where they differ."""
    file = model_file.load(OUTPUT)
    images, about = photographs(file.about.image_size), file.about.architecture
    ours = answer(file, images, jnp.float32)[1]
    difference = relative(ours, timms(images, about["input_mean"], about["input_std"]))
    shares = softmax(ours, axis=1)

    info = ImageNetInfo()
    lines = ["| photograph | most probable of 1,000 classes |", "|---|---|"]
    for name, row in zip(NAMES, shares, strict=True):
        best = np.argsort(-row)[:TOP]
        named = (f"{info.index_to_description(int(i)).split(',')[0]} {row[i]:.0%}" for i in best)
        lines.append(f"| {name} | {'; '.join(named)} |")
    lines += [
        "",
        f"Logits are {difference:.1e} of the largest from timm's, at most {LIMIT:.0e}.",
    ]
    write_text(RESULT, "# ImageNet weights of Lite2 on photographs\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(difference > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
