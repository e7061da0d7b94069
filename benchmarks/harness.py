"""Interleaved measurements, and the table they end in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["REPEATS", "Figure", "interleaved", "markdown", "ratio"]

#: Each thing is measured so often, in turn with what it is compared with.
REPEATS = 7


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio with its spread, against a budget."""

    row: str
    what: str
    ours: str
    peer: str
    ratios: Sequence[float]
    #: Text such as ``<= 2`` or ``>= 0.95``; empty where the line only informs.
    budget: str
    notes: str = field(default="")

    @property
    def median(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> str:
        """Whether the median keeps the budget."""
        if not self.budget:
            return "-"
        sign, bound = self.budget.split()
        ok = self.median <= float(bound) if sign == "<=" else self.median >= float(bound)
        return "yes" if ok else "**no**"


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
    lines = ["| row | what | ours | peer or limit | ratio (min - max) | budget | met |", "|---|---|---|---|---|---|---|"]
    for f in figures:
        spread = f"{f.median:.2f} ({min(f.ratios):.2f} - {max(f.ratios):.2f})"
        lines.append(f"| {f.row} | {f.what} | {f.ours} | {f.peer} | {spread} | {f.budget or '-'} | {f.met} |")
    notes = [f"- {f.row}, {f.what}: {f.notes}" for f in figures if f.notes]
    return "\n".join([*lines, "", *notes]) + "\n"
