"""Lists of images by key, as the audit and people write them: lines, JSON, or JSON lines."""

import json
from pathlib import Path
from typing import Any

from fer_jax.errors import UserError, one_line

FORMS = "one key per line, or a JSON list (.jsonl: lines) of keys or of {split, key}"


def read(path: str, split: str) -> list[str]:
    """The keys that the file lists, each once; of entries that tell their split, those of `split`.

    UserError where it is no list of keys.
    """
    place = Path(path).expanduser()
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read a list of keys from {path}: {one_line(error)}") from None
    keys = [_key(path, entry, split) for entry in _entries(path, place.suffix.lower(), text)]
    return list(dict.fromkeys(key for key in keys if key is not None))


def _entries(path: str, suffix: str, text: str) -> list[Any]:
    lines = [line.rstrip("\r") for line in text.split("\n")]
    filled = [line for line in lines if line]
    if suffix not in (".json", ".jsonl"):
        return filled
    try:
        found = json.loads(text) if suffix == ".json" else [json.loads(line) for line in filled]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is broken JSON: {one_line(error)}") from None
    if not isinstance(found, list):
        lists = found.get("lists") if isinstance(found, dict) else None
        hint = f"; this is a whole audit, beside it lie {', '.join(lists)}" if lists else ""
        raise UserError(f"{path} is no list of keys: {FORMS}{hint}")
    return found


def _key(path: str, entry: Any, split: str) -> str | None:
    """The entry's key, or None if it is of another split."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and isinstance(entry.get("key"), str):
        return entry["key"] if entry.get("split", split) == split else None
    raise UserError(f"{path} is no list of keys, it has {str(entry)[:40]!r}: {FORMS}")
