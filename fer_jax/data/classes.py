"""What a data set calls its classes -> the project's labels: by name, by number, or left out."""

import re
from collections.abc import Iterable, Sequence

from fer_jax.errors import UserError
from fer_jax.labels import LABELS, canonical, parse_order

NONE = "none"
_NUMBER = re.compile(r"(\d{1,3})(\.0*)?", re.ASCII)  # tables of floats write 3.0


class Classes:
    """How names and numbers of classes are to be read."""

    def __init__(self, order: str, mapped: str, default: Sequence[str] = ()) -> None:
        """From `"1:surprise,fear,..."` (without `1:` numbers start at 0) and `"contempt:none,..."`.

        `default` is what the numbers 0, 1, ... of the layout mean where `order` is "".
        """
        first, colon, names = order.rpartition(":")
        if colon and not _NUMBER.fullmatch(first):
            raise UserError(f"label_order={order}: a first number stands before the colon")
        self.first = int(_plain(first) or 0)
        self.order = parse_order(names) if order else tuple(default)  # () if nobody said it

        option = f"map={mapped}"
        self.mapped: dict[str, str] = {}  # name or number -> one of LABELS, or NONE to leave out
        for pair in filter(None, map(str.strip, mapped.lower().split(","))):
            name, _, meant = (part.strip() for part in pair.partition(":"))
            if not (name and meant) or name in self.mapped:
                raise UserError(f"{option}: give each name once, as in contempt:none,joy:happy")
            try:
                self.mapped[name] = meant if meant == NONE else canonical(meant)
            except UserError as error:
                raise UserError(f"{option}: {error}") from None

    def label(self, given: str) -> int | None:
        """`"Happiness"`, `"3"`, `"3.0"` -> 0..6, None to leave out; UserError if it is unknown."""
        name = _plain(given)
        if name in self.mapped:
            meant = self.mapped[name]
            return None if meant == NONE else LABELS.index(meant)
        if _NUMBER.fullmatch(name):
            return self._numbered(int(name))
        try:
            return LABELS.index(canonical(given[:40]))
        except UserError as error:
            raise UserError(f"{error}; map={name[:40]}:{NONE} leaves it out") from None

    def check_numbers(self, given: Iterable[str]) -> tuple[str, ...]:
        """A note where the numbers among `given` may start at 1; UserError where they surely do.

        Or where nobody said what they mean.
        """
        names = {name for name in map(_plain, set(given)) if _NUMBER.fullmatch(name)}
        used = sorted(map(int, names - self.mapped.keys()))
        if used and not self.order:
            self._numbered(used[0])
        if self.first or not used or min(map(int, names)) != 1:
            return ()
        said = f"label_order=1:{','.join(self.order) or 'angry,disgust,...'}"
        if used[-1] == len(LABELS):
            raise UserError(f"classes are numbered from 1 to 7: say what they mean, as in {said}")
        return (f"no class is numbered 0: if numbers start at 1, say so by {said}",)

    def _numbered(self, number: int) -> int:
        last = self.first + len(LABELS) - 1
        if not self.order:
            raise UserError(
                f"class {number} is a number: say by label_order=angry,disgust,... what 0, 1, ... "
                "mean, or by label_order=1:angry,disgust,... what 1, 2, ... do"
            )
        if not self.first <= number <= last:
            raise UserError(
                f"class {number} is outside {self.first}..{last} of label_order: label_order=1:... "
                f"starts at 1, map={number}:{NONE} leaves it out"
            )
        return LABELS.index(self.order[number - self.first])


def _plain(name: str) -> str:
    """`" Happy"` -> `"happy"`, `"3.0"` -> `"3"`."""
    number = _NUMBER.fullmatch(name.strip())
    return number[1] if number else name.strip().lower()
