"""A photograph and drawn faces, recognised: `python -m experiments.demo [--output=runs/demo]`.

Writes both pictures with the answers drawn in, and the answers as JSON lines.
"""

import json
import pathlib
import time
from collections.abc import Sequence

from absl import flags

from fer_jax import cli

OUTPUT = flags.DEFINE_string("output", "runs/demo", "Folder for what is written.")


def main(argv: Sequence[str]) -> None:
    """Recognise, draw, write, and say how long it took."""
    del argv
    start = time.perf_counter()
    import numpy as np
    from PIL import Image
    from skimage import data

    import fer_jax
    from fer_jax.data import synthetic
    from fer_jax.labels import LABELS
    from fer_jax.recognition import draw
    from fer_jax.recognition.rows import rows_of

    side, model = synthetic.SIDE, fer_jax.load()
    room = ((0, 0), (0, side))  # right of each face, for its chart
    drawn = [np.pad(synthetic.draw_face(label, 1, 7), room) for label in LABELS]
    boxes = [(2 * side * number, 0, side, side) for number in range(len(LABELS))]
    pictures = {
        "astronaut": (data.astronaut(), "detect"),
        "drawn_faces": (np.hstack(drawn)[..., None], boxes),
    }

    folder = pathlib.Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as file:
        for name, (picture, crop) in pictures.items():
            (found,) = model.predict(picture, crop=crop, batch_size=1)  # one program for both
            found.file = f"{name}.png"
            said = ", ".join(f"{face.label} {face.confidence:.0%}" for face in found)
            print(f"{name} after {time.perf_counter() - start:.1f} s: {said}", flush=True)
            file.writelines(json.dumps(row) + "\n" for row in rows_of(found))
            Image.fromarray(draw.annotated(picture, found)).save(folder / found.file)
    print(f"wrote {folder}")


if __name__ == "__main__":
    cli.run(main)
