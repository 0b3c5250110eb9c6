"""From photographs, folders, video or a camera to answers: `python -m fer_jax.recognise PATH...`.

At a terminal a table; else JSON lines, or what --output=FILE.jsonl or FILE.csv names: one row a
face. The same command after a stop goes on where FILE ends. Nothing leaves this machine.
N tasks share a folder by --shard=1/N to N/N; --shards=N submits them to SLURM.
"""

import contextlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError
from fer_jax.recognition.rows import Rows

MODEL = flags.DEFINE_string("model", None, "Model file or run's folder; default: the shipped one.")
DETECTOR = flags.DEFINE_string("detector", "auto", "auto, a YuNet file, or none: all is a face.")
OUTPUT = flags.DEFINE_string("output", "", "FILE.jsonl, FILE.csv, or - for JSON lines.")
DRAW = flags.DEFINE_string("draw", "", "Folder for the pictures and videos with answers drawn in.")
EXPLAIN = flags.DEFINE_bool("explain", False, "Draw what each answer depends on (HiResCAM).")
CAMERA = flags.DEFINE_integer("camera", None, "Number of the camera to watch, until Ctrl-C.")
EVERY = flags.DEFINE_integer("every", 1, "Of a video, take every Nth frame.", lower_bound=1)
SHARD = flags.DEFINE_string("shard", "1/1", "K/N: part K of N, to FILE-K-of-N of --output=FILE.")
SHARDS = flags.DEFINE_integer("shards", 0, "Submit the N parts to SLURM, as an array.", 0)
OPTIONS = (  # of recognizer.Options, by the same names
    flags.DEFINE_enum("crop", "detect", ["detect", "whole"], "Find faces, or take all as one."),
    flags.DEFINE_integer("min_face", 40, "Smallest side of a face, in pixels."),
    flags.DEFINE_float("min_confidence", 0.0, "Below it the answer is 'not sure'."),
    flags.DEFINE_string("tta", "none", "Views of each face to average over: flip, flip_crops."),
    flags.DEFINE_float("smoothing", 0.0, "Of a video: the share of the last frame."),
)


def main(argv: Sequence[str]) -> int:
    """Recognise what the arguments name; 2 where nothing could be read."""
    if (len(argv) > 1) == (CAMERA.value is not None):
        raise UserError("give photographs, folders or videos, or --camera=0, and not both")
    if EXPLAIN.value and not DRAW.value:
        raise UserError("--explain is drawn into pictures: give --draw=DIR too")
    if SHARDS.value and not SHARD.present:  # its tasks have both
        return _submit(SHARDS.value)
    (part, parts), output = _shard(), OUTPUT.value
    if parts > 1 and (place := pathlib.Path(output)).suffix:  # a file, not the terminal or a pipe
        output = str(place.with_stem(f"{place.stem}-{part}-of-{parts}"))
    with contextlib.closing(Rows(output)) as rows:
        try:
            _recognise(argv[1:], rows)
        except BrokenPipeError:  # such as `| head`
            return 0
    if not rows.read and (rows.error or parts == 1):  # a part may be empty
        raise UserError(rows.error or f"{', '.join(argv[1:])}: no image or video in there")
    return 0


def _submit(parts: int) -> int:
    """This command as tasks, one for each part; sbatch's own variables say on which nodes."""
    if not pathlib.Path(OUTPUT.value).suffix:
        raise UserError("--shards: each task writes a file: give --output=FILE.jsonl or FILE.csv")
    program = shlex.join([sys.executable, "-m", "fer_jax.recognise"])
    task = f"exec {program} --shard=$SLURM_ARRAY_TASK_ID/{parts} {shlex.join(sys.argv[1:])}"
    command = ["sbatch", "--job-name=fer_jax", f"--array=1-{parts}", "--requeue", f"--wrap={task}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError("--shards: no sbatch here; start the parts by --shard=K/N") from error
    if done.returncode:
        raise UserError(f"SLURM refuses the tasks: {' '.join(done.stderr.split())}")
    print(f"{done.stdout.strip()}: {parts} tasks; the same command goes on with what is missing")
    return 0


def _recognise(paths: Sequence[str], rows: Rows) -> None:
    from tqdm import tqdm

    from fer_jax.data.images import quiet_pillow
    from fer_jax.recognition import draw, recognizer

    live, drawn = CAMERA.value is not None, bool(DRAW.value)
    settings: dict[str, Any] = {flag.name: flag.value for flag in OPTIONS}
    batch_size = 1 if live else 4 if drawn else 64  # photographs are large, faces are not
    options = recognizer.Options(batch_size=batch_size, pixels=drawn, **settings)
    model = recognizer.load(MODEL.value, DETECTOR.value)
    gallery = draw.Gallery(DRAW.value, paths, model, EXPLAIN.value)
    answers = model.smoothed(model.stream(_items(paths, rows.done), options), options)
    shown = tqdm(answers, unit=" pictures", disable=rows.table or not sys.stderr.isatty())
    ends = (KeyboardInterrupt,) if live else ()
    with quiet_pillow(), contextlib.closing(gallery), contextlib.suppress(*ends):
        for found in shown:
            if not found.picture.between:
                rows.write(found)
            gallery.add(found)


def _shard() -> tuple[int, int]:
    """(K, N) of --shard=K/N; UserError where it is none."""
    match = re.fullmatch(r"(\d+)/(\d+)", SHARD.value)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"--shard={SHARD.value}: give K/N with K from 1 to N")
    return part, parts


def _items(paths: Sequence[str], done: Container[str]) -> Iterator[Any]:
    """Files that are not done yet: images by their path, of videos and the camera each frame."""
    from fer_jax.recognition import pictures

    part, parts = _shard()  # by the name alone, so that files may join between stop and start
    sources = pictures.files(paths, besides=os.path.abspath(DRAW.value or os.devnull))
    for source in sources if CAMERA.value is None else [CAMERA.value]:
        if source in done or zlib.crc32(os.fsencode(str(source))) % parts != part - 1:
            continue
        if isinstance(source, str) and not source.lower().endswith(pictures.VIDEOS):
            yield source
            continue
        try:
            yield from pictures.video(source, EVERY.value, all=bool(DRAW.value))
        except UserError as error:
            yield pictures.Picture(None, str(source), error=str(error))


if __name__ == "__main__":
    cli.run(main, arguments=True)
