"""Where answers go: a table for a person, JSON lines or CSV for programs; resumed after a stop."""

import csv
import io
import json
import pathlib
import sys
from typing import Any

from fer_jax.errors import UserError, one_line
from fer_jax.labels import LABELS

COLUMNS = (
    *("file", "frame", "time", "face", "x", "y", "w", "h", "detection", "label", "confidence"),
    *("abstained", *(f"p_{label}" for label in LABELS), "error"),
)


class Rows:
    """The rows of one picture after another, printed or written."""

    def __init__(self, output: str) -> None:
        """UserError for a name of another kind. `done` are the files that `output` answers."""
        kind = pathlib.PurePath(output).suffix
        if output not in ("", "-") and kind not in (".jsonl", ".csv"):
            raise UserError(f"--output={output}: give FILE.jsonl, FILE.csv or -")
        self.error: str | None = None
        self.table = not output and sys.stdout.isatty()
        self.done, self._stream = set[str](), sys.stdout
        self._line = for_person if self.table else csv_line if kind == ".csv" else json_line
        if kind:
            try:
                self.done = _resume(output, kind)
                self._stream = open(output, "a", encoding="utf-8", newline="")  # noqa: SIM115
            except (OSError, ValueError, TypeError, KeyError) as error:
                reason = one_line(error)
                raise UserError(f"cannot go on with --output={output}: {reason}") from error
        self.read = len(self.done)
        if kind == ".csv" and not self._stream.tell():
            self._stream.write(csv_line(dict(zip(COLUMNS, COLUMNS, strict=True))))

    def write(self, found: Any) -> None:
        """All rows of one picture, at once."""
        self.read += found.error is None
        self.error = self.error or (found.error and f"{found.file}: {found.error}")
        self._stream.write("".join(map(self._line, rows_of(found))))
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not sys.stdout:
            self._stream.close()


def _resume(output: str, kind: str) -> set[str]:
    """The files that are answered, without the last one, which is cut off: it may be unfinished."""
    done, last, start, position = set(), None, 0, 0
    with open(output, "a+b") as stream:
        stream.seek(0)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            text = line.decode()
            file = next(csv.reader([text]))[0] if kind == ".csv" else json.loads(text)["file"]
            if file != last:
                last, start = file, position
                done.add(file)
            position += len(line)
        stream.truncate(start)
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


def json_line(row: dict[str, Any]) -> str:
    """For programs, the columns by their names."""
    return json.dumps(row) + "\n"


def csv_line(row: dict[str, Any]) -> str:
    """For programs, in the order of COLUMNS."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([row[name] for name in COLUMNS])
    return text.getvalue()


def for_person(row: dict[str, Any]) -> str:
    """A line of the table: `photograph.jpg  0  happy  85 %  at 182, 60, 87 x 114`."""
    frame = "" if row["time"] is None else f" {row['time']:8.2f} s"
    name = f"{row['file'][-40:]:<40}{frame}"
    if row["face"] is None:
        return f"{name}  {row['error'] or 'no face'}\n"
    place = "{x:.0f}, {y:.0f}, {w:.0f} x {h:.0f}".format(**row)
    said = row["label"] or "not sure"
    return f"{name} {row['face']:3}  {said:<9} {row['confidence']:4.0%}  at {place}\n"
