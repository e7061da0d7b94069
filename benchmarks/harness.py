"""Interleaved measurements, and the table they end in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["REPEATS", "Figure", "interleaved", "markdown", "missing", "ratio"]

#: Each thing is measured so often, in turn with what it is compared with.
REPEATS = 7


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio with its spread, or a quantity where it has a unit, against a budget."""

    row: str
    what: str
    ours: str
    peer: str
    ratios: Sequence[float]
    #: Text such as ``<= 2`` or ``>= 0.95``; empty where the line only informs.
    budget: str
    notes: str = field(default="")
    #: What ``ratios`` are where they are no ratios, as ``ms``.
    unit: str = ""

    @property
    def spread(self) -> str:
        """The median with the least and the greatest; a dash where nothing was measured, and a word where it was only once."""
        if not self.ratios:
            return "-"
        digits = 2 if self.median >= 0.1 else 4  # what is a thousandth of its peer is not 0.00 of it
        shown = f"{self.median:.{digits}f}{self.unit and ' ' + self.unit}"
        if len(self.ratios) == 1:
            return f"{shown} (one run)"
        return f"{shown} ({min(self.ratios):.{digits}f} - {max(self.ratios):.{digits}f})"

    @property
    def median(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> str:
        """Whether the median keeps the budget."""
        if not self.budget or not self.ratios:
            return "-"
        sign, bound = self.budget.split()
        ok = self.median <= float(bound) if sign == "<=" else self.median >= float(bound)
        return "yes" if ok else "**no**"


def missing(row: str, what: str, why: str) -> Figure:
    """Return the line of a comparison that cannot be made here."""
    return Figure(row, what, "-", why, (), "")


def interleaved(measures: Sequence[Callable[[], float]], repeats: int = REPEATS) -> list[list[float]]:
    """Call the measures in turn, A B A B …, and return the results of each; the first round is a warm-up."""
    results: list[list[float]] = [[] for _ in measures]
    for turn in range(repeats + 1):
        for measure, found in zip(measures, results, strict=True):
            value = measure()
            if turn:
                found.append(value)
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios pair by pair: each pair was measured side by side."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| row | what | ours | peer or limit | ratio, or quantity (min - max) | budget | met |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {f.row} | {f.what} | {f.ours} | {f.peer} | {f.spread} | {f.budget or '-'} | {f.met} |" for f in figures]
    notes = [f"- {f.row}, {f.what}: {f.notes}" for f in figures if f.notes]
    return "\n".join([*lines, "", *notes]) + "\n"
