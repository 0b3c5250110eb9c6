"""Class names, their aliases, and the label orders of every source format."""

import difflib

from fer_jax.errors import UserError

LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The project's order (alphabetical, as Keras reads folders)."""

FER2013_CSV_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""What 0..6 mean in the column `emotion` of fer2013.csv."""

ALIASES = {
    "anger": "angry",
    "disgusted": "disgust",
    "afraid": "fear",
    "fearful": "fear",
    "happiness": "happy",
    "happily": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "surprised": "surprise",
    "suprise": "surprise",
}


def canonical(name: str) -> str:
    """The project's name for a class folder or column; UserError names the nearest known one."""
    plain = name.strip().lower()
    plain = ALIASES.get(plain, plain)
    if plain in LABELS:
        return plain
    known = [*LABELS, *ALIASES]
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    hint = f"; did you mean {ALIASES.get(near[0], near[0])!r}?" if near else ""
    raise UserError(f"unknown class {name!r}{hint} (known: {', '.join(LABELS)})")


def index(name: str) -> int:
    """The project's label, 0..6, of a class name or alias."""
    return LABELS.index(canonical(name))


def parse_order(text: str) -> tuple[str, ...]:
    """`"angry,disgust,..."` -> canonical names, what 0, 1, ... mean in a numeric layout.

    UserError unless each of the seven classes occurs once.
    """
    names = tuple(canonical(name) for name in text.split(",") if name.strip())
    if sorted(names) != sorted(LABELS):
        raise UserError(f"label order {text!r} must name each of {','.join(LABELS)} exactly once")
    return names
