"""From photographs, folders, video or a camera to answers: `python -m fer_jax.recognise PATH...`.

At a terminal a table; else JSON lines, or what --output=FILE.jsonl or FILE.csv names: one row a
face. The same command after a stop goes on where FILE ends. Nothing leaves this machine.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, one_line
from fer_jax.labels import LABELS

MODEL = flags.DEFINE_string("model", None, "Model file or run's folder; if not given, the shipped.")
DETECTOR = flags.DEFINE_string("detector", "auto", "auto, a YuNet file, or none: all is face.")
CROP = flags.DEFINE_enum("crop", "detect", ["detect", "whole"], "Find faces, or take all for one.")
OUTPUT = flags.DEFINE_string("output", "", "FILE.jsonl, FILE.csv, or - for JSON lines.")
DRAW = flags.DEFINE_string("draw", "", "Folder for the pictures and videos with answers drawn in.")
EXPLAIN = flags.DEFINE_bool("explain", False, "Draw also what each answer hangs on (Grad-CAM).")
CONFIDENCE = flags.DEFINE_float("min_confidence", None, "Below it the answer is 'not sure'.")
MIN_FACE = flags.DEFINE_integer("min_face", 40, "Least side of a face in pixels.")
TTA = flags.DEFINE_string("tta", "none", "Views of each face to average over: flip, flip_crops.")
CAMERA = flags.DEFINE_integer("camera", None, "Number of the camera to watch, until Ctrl-C.")
EVERY = flags.DEFINE_integer("every", 1, "Of video every so many-th frame.", lower_bound=1)
SMOOTHING = flags.DEFINE_float("smoothing", 0.0, "Of video: the share of the frame before.")

COLUMNS = (
    *("file", "frame", "time", "face", "x", "y", "w", "h", "detection", "label", "confidence"),
    *("abstained", *(f"p_{label}" for label in LABELS), "error"),
)


def main(argv: Sequence[str]) -> int:
    """Recognise what the arguments name; 2 where nothing could be read."""
    if len(argv) < 2 and CAMERA.value is None:
        raise UserError("give photographs, folders or videos, or --camera=0")
    if EXPLAIN.value and not DRAW.value:
        raise UserError("--explain is drawn into pictures: give --draw=DIR too")
    rows = Rows(OUTPUT.value)
    try:
        _recognise(argv[1:], rows)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        rows.close()
    if not rows.read:
        raise UserError(rows.error or f"{', '.join(argv[1:])}: no image or video in there")
    return 0


def _recognise(paths: Sequence[str], rows: "Rows") -> None:
    from tqdm import tqdm

    from fer_jax.data.images import quiet_pillow
    from fer_jax.recognition import draw, recognizer

    live = CAMERA.value is not None
    options = recognizer.Options(
        1 if live else 64, CROP.value, MIN_FACE.value, CONFIDENCE.value, TTA.value
    )
    model = recognizer.load(MODEL.value, DETECTOR.value)
    answers = model.smoothed(
        model.stream(_items(paths, rows.done), options), SMOOTHING.value, options
    )
    shown = tqdm(answers, unit=" pictures", disable=rows.table or not sys.stderr.isatty())
    gallery = draw.Gallery(DRAW.value, paths, model, EXPLAIN.value)
    ends = (KeyboardInterrupt,) if live else ()
    with quiet_pillow(), contextlib.closing(gallery), contextlib.suppress(*ends):
        for picture, found in shown:
            if not picture.between:
                rows.write(found)
            gallery.add(picture, found)


def _items(paths: Sequence[str], done: set[str]) -> Iterator[Any]:
    """Files that are not done yet: images by their path, of videos and the camera each frame."""
    from fer_jax.recognition import pictures

    between = bool(DRAW.value) and EVERY.value > 1
    sources = pictures.files(paths, besides=os.path.abspath(DRAW.value or os.devnull))
    for source in sources if CAMERA.value is None else [CAMERA.value]:
        if source in done:
            continue
        if isinstance(source, str) and not source.lower().endswith(pictures.VIDEOS):
            yield source
            continue
        try:
            yield from pictures.video(source, EVERY.value, all=between)
        except UserError as error:
            yield pictures.Picture(None, str(source), error=str(error))


class Rows:
    """Where answers go: a table for a person, JSON lines or CSV for programs."""

    def __init__(self, output: str) -> None:
        """UserError for a name that is neither. `done` are the files that `output` answers."""
        kind = pathlib.PurePath(output).suffix
        if output not in ("", "-") and kind not in (".jsonl", ".csv"):
            raise UserError(f"--output={output}: give FILE.jsonl, FILE.csv or -")
        self.error: str | None = None
        self.table = not output and sys.stdout.isatty()
        self._csv, self.done = kind == ".csv", set[str]()
        self._stream: Any = sys.stdout
        if kind:
            try:
                self._stream = open(output, "a+b")  # noqa: SIM115
                self.done = _resumed(self._stream, self._csv)
            except (OSError, ValueError, TypeError, KeyError) as error:
                self.close()
                reason = one_line(error)
                raise UserError(f"cannot go on with --output={output}: {reason}") from error
        self.read = len(self.done)
        if self._csv and not self._stream.tell():
            self._put(_line(dict(zip(COLUMNS, COLUMNS, strict=True))))

    def write(self, found: Any) -> None:
        """All rows of one picture, at once."""
        rows = rows_of(found)
        self.read += found.error is None
        self.error = self.error or (found.error and f"{found.file}: {found.error}")
        if self.table:
            text = "".join(map(_for_person, rows))
        else:
            text = "".join(_line(row) if self._csv else json.dumps(row) + "\n" for row in rows)
        self._put(text)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not sys.stdout:
            self._stream.close()

    def _put(self, text: str) -> None:
        self._stream.write(text if self._stream is sys.stdout else text.encode())
        self._stream.flush()


def _resumed(stream: Any, as_csv: bool) -> set[str]:
    """The files that are answered, without the last one, which is cut off: it may be unfinished."""
    stream.seek(0)
    done, last, start, position = set(), None, 0, 0
    for line in stream:
        if not line.endswith(b"\n"):
            break
        text = line.decode()
        file = next(csv.reader([text]))[0] if as_csv else json.loads(text)["file"]
        if file != last:
            last, start = file, position
            done.add(file)
        position += len(line)
    stream.truncate(start)
    stream.seek(start)
    return done - {last}


def rows_of(found: Any) -> list[dict[str, Any]]:
    """A row for each face; for none a row too, so that it is seen that the picture was read."""
    common = {"file": found.file, "frame": found.frame, "time": found.time, "error": found.error}
    blank = dict.fromkeys(COLUMNS) | common
    rows = []
    for number, face in enumerate(found):
        row = dict(zip("xywh", (round(value, 1) for value in face.box), strict=True))
        row |= {f"p_{label}": round(p, 6) for label, p in face.probabilities.items()}
        row |= {name: getattr(face, name) for name in ("detection", "label", "abstained")}
        rows.append(blank | row | {"face": number, "confidence": round(face.confidence, 6)})
    return rows or [blank]


def _line(row: dict[str, Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([row[name] for name in COLUMNS])
    return text.getvalue()


def _for_person(row: dict[str, Any]) -> str:
    """`photograph.jpg  0  happy  85 %  at 182, 60, 87 x 114`."""
    frame = "" if row["time"] is None else f" {row['time']:8.2f} s"
    name = f"{row['file'][-40:]:<40}{frame}"
    if row["face"] is None:
        return f"{name}  {row['error'] or 'no face'}\n"
    place = "{x:.0f}, {y:.0f}, {w:.0f} x {h:.0f}".format(**row)
    said = row["label"] or "not sure"
    return f"{name} {row['face']:3}  {said:<9} {row['confidence']:4.0%}  at {place}\n"


if __name__ == "__main__":
    cli.run(main, arguments=True)
