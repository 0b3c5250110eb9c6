"""Folders for the Hugging Face Hub: weights, ONNX files, config, model card; and files from it."""

import json
import pathlib
from typing import Any

from fer_jax import model_file
from fer_jax.conversion.onnx import SESSION_OPTION, export_onnx, said_of
from fer_jax.errors import UserError, one_line, optional
from fer_jax.model_file import HUB_NAME, LEAST, ModelFile
from fer_jax.outputs import write_text

ONNX_NAMES = {"float32": "model", "float16": "model_fp16", "int8": "model_int8"}
TEXT = """
# {name}

{kind} for images of {size} px, made with fer_jax (pure JAX). It answers a cropped face with one of
{count}: {labels}.

```python
import fer_jax
fer_jax.load("hf://USER/THIS_REPOSITORY").predict("photograph.jpg")
```

Without Python: `onnx/model.onnx` takes `images`, uint8 [batch, {size}, {size}, 3] as read from a
file, and gives `logits` and `probabilities` [batch, {count}]; it scales pixels itself.
`model_fp16.onnx` stores its kernels in half the bytes, `model_int8.onnx` in a quarter: run the
latter with the session option `{option}=1`, or ONNX Runtime is slower with it.

- Preprocessing: {about.preprocessing}.
- Probabilities are softmax(log(max(softmax(logits) - s / {count}, {least:g})) / t), with s and t
  `label_smoothing` and `temperature` of `config.json`; where s is 0, softmax(logits / t).
- Licence of the weights: {about.licence}. Origin: {origin}.
- Metrics in the front matter, if any, are of the images that chose the checkpoint: optimistic.

It answers with one of its classes whatever it is shown. A facial expression is not an emotion: not
for decisions about people, nor for faces of people who have not agreed.
"""


def export_hub(folder: pathlib.Path, file: ModelFile) -> None:
    """model.safetensors, config.json, README.md and onnx/ in `folder`; UserError headless.

    Each file is written in one step; others that lie there stay.
    """
    said_of(file)  # which refuses a model without a head, before anything is written
    for precision, name in ONNX_NAMES.items():
        export_onnx(folder / "onnx" / f"{name}.onnx", file, precision)
    model_file.save(folder / HUB_NAME, file)
    config, card = json.dumps(config_of(file), indent=2), card_of(folder.resolve().name, file)
    write_text(folder / "config.json", config)
    write_text(folder / "README.md", card)


def fetch(name: str) -> pathlib.Path:
    """The model file of the Hub's repository `user/name`, fetched where its cache has none.

    UserError where it cannot be had.
    """
    hub = optional("huggingface_hub", "hub", f"fetching {name} from the Hugging Face Hub")
    try:
        return pathlib.Path(hub.hf_hub_download(name, HUB_NAME))
    except (OSError, ValueError) as error:  # all of its own are one or the other
        raise UserError(
            f"no {HUB_NAME} of {name} from the Hugging Face Hub: {one_line(error)}"
        ) from error


def config_of(file: ModelFile) -> dict[str, Any]:
    """What programs read of the model: labels by number, preprocessing, calibration."""
    names = _labels(file)
    return {
        "model_type": "fer_jax",
        "architecture": file.about.architecture,
        **said_of(file),
        "num_channels": 3,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def card_of(name: str, file: ModelFile) -> str:
    """README.md: front matter (JSON values, which are YAML) and text."""
    about, names = file.about, _labels(file)
    part = about.origin.get("selected_on") or "unknown"
    results = [
        {
            "task": {"type": "image-classification", "name": "Facial expression recognition"},
            "dataset": {"type": "own", "name": f"{part} part of its data"},
            "metrics": [{"type": k, "value": v} for k, v in (about.metrics or {}).items()],
        }
    ]
    front: dict[str, Any] = {
        "license": about.licence.lower(),
        "library_name": "fer_jax",
        "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "jax", "onnx"],
    }
    if about.metrics:
        front["model-index"] = [{"name": name, "results": results}]
    text = TEXT.format(
        name=name,
        kind=f"EfficientNet-{about.architecture['variant'].upper()}",
        about=about,
        size=about.image_size,
        count=len(names),
        labels=", ".join(names),
        option=SESSION_OPTION,
        least=LEAST,
        origin=json.dumps(about.origin),
    )
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    return "\n".join(["---", *lines, "---", text.lstrip()])


def _labels(file: ModelFile) -> list[str]:
    """Its labels, or where it has none their numbers."""
    classes = file.about.architecture["head"]["classes"]
    return file.about.labels or [f"class {number}" for number in range(classes)]
