"""Where answers go: a table for a person, JSON lines or CSV for programs; resumed after a stop."""

import csv
import json
import pathlib
import re
import sys
from typing import Any

from fer_jax.errors import UserError, one_line
from fer_jax.labels import LABELS

COLUMNS = (
    *("file", "frame", "time", "face", "x", "y", "w", "h", "detection", "label", "confidence"),
    *("abstained", *(f"p_{label}" for label in LABELS), "error"),
)
LIVE = re.compile(r"camera \d+")  # the file of what is seen only once, by pictures.video


class Rows:
    """The rows of one picture after another, printed or written."""

    def __init__(self, output: str) -> None:
        """UserError for a name of another kind. `done`: which files `output` answers, if read."""
        kind = pathlib.PurePath(output).suffix
        if output not in ("", "-") and kind not in (".jsonl", ".csv"):
            raise UserError(f"--output={output}: give FILE.jsonl, FILE.csv or -")
        self.error: str | None = None
        self.table = not output and sys.stdout.isatty()
        # Rows that nobody reads are no work to go on with: this stream says so.
        self._console = getattr(sys.stdout, "stream", sys.stdout)
        self.done, self._stream = dict[str, bool](), self._console
        if kind:
            try:
                pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
                self.done = _resume(output, kind)
                self._stream = open(output, "a", encoding="utf-8", newline="")  # noqa: SIM115
            except Exception as error:  # a file of another kind may raise anything
                reason = one_line(error)
                raise UserError(f"cannot go on with --output={output}: {reason}") from error
        self.read = sum(self.done.values())
        table = csv.DictWriter(self._stream, COLUMNS, lineterminator="\n")
        self._csv = table if kind == ".csv" else None
        if self._csv and not self._stream.tell():
            self._csv.writeheader()

    def write(self, found: Any) -> None:
        """All rows of one picture."""
        self.read += found.error is None
        self.error = self.error or (found.error and f"{found.file}: {found.error}")
        rows = rows_of(found)
        if self._csv:
            self._csv.writerows(rows)
        else:
            line = for_person if self.table else json.dumps
            self._stream.writelines(f"{line(row)}\n" for row in rows)
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not self._console:
            self._stream.close()


def _resume(output: str, kind: str) -> dict[str, bool]:
    """The files that are answered, and whether they could be read.

    Without the last one, which is cut off: it may be unfinished. A camera's rows stay.
    """
    done, last, start = dict[str, bool](), "", 0
    with open(output, "a+b") as stream:
        stream.seek(0)
        position = len(stream.readline()) if kind == ".csv" else 0  # of the names of the columns
        for line in stream:
            if not line.endswith(b"\n"):
                break
            row = _parsed(line.decode(), kind)
            if row["file"] != last:
                last, start = row["file"], position
            done[last] = not row["error"]
            position += len(line)
        stream.truncate(position if LIVE.fullmatch(last) else start)
    return {file: read for file, read in done.items() if file != last}


def _parsed(line: str, kind: str) -> dict[str, Any]:
    if kind == ".csv":
        return dict(zip(COLUMNS, next(csv.reader([line])), strict=True))
    return json.loads(line)


def rows_of(found: Any) -> list[dict[str, Any]]:
    """A row for each face; for none a row too, so that it is seen that the picture was read."""
    common = {"file": found.file, "frame": found.frame, "time": found.time, "error": found.error}
    blank, rows = dict.fromkeys(COLUMNS) | common, []
    for number, face in enumerate(found):
        row = dict(zip("xywh", (round(value, 1) for value in face.box), strict=True))
        row |= {f"p_{label}": round(p, 6) for label, p in face.probabilities.items()}
        row |= {name: getattr(face, name) for name in ("detection", "label", "abstained")}
        rows.append(blank | row | {"face": number, "confidence": round(face.confidence, 6)})
    return rows or [blank]


def for_person(row: dict[str, Any]) -> str:
    """A line of the table: `photograph.jpg  0  happy  85 %  at 182, 60, 87 x 114`."""
    frame = "" if row["time"] is None else f" {row['time']:8.2f} s"
    name = f"{row['file'][-40:]:<40}{frame}"
    if row["face"] is None:
        return f"{name}  {row['error'] or 'no face'}"
    place = "{x:.0f}, {y:.0f}, {w:.0f} x {h:.0f}".format(**row)
    said = row["label"] or "not sure"
    return f"{name} {row['face']:3}  {said:<9} {row['confidence']:4.0%}  at {place}"
