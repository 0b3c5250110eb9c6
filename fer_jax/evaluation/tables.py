"""Markdown tables, aligned for terminals, and how figures are written in them."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table whose columns are as wide as their widest cell; all but the first `texts` of them
    hold numbers, which stand to the right.
    """
    lines = [list(map(cell, line)) for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    aligned = [
        [text.ljust(w) if i < texts else text.rjust(w) for i, (text, w) in enumerate(pairs)]
        for pairs in (zip(line, widths, strict=True) for line in lines)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]])


def cell(text: str) -> str:
    """What would end a cell is escaped, line breaks are spaces."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def share(value: float | None) -> str:
    """`71.20%`; a dash where there is nothing to measure."""
    return "–" if value is None else f"{value:.2%}"


def interval(edges: Sequence[float] | None) -> str:
    """`69.38% to 72.30%`; nothing where there is none."""
    return "" if edges is None else f"{edges[0]:.2%} to {edges[1]:.2%}"
