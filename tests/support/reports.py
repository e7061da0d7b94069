"""Put the logs of the processes that took part in a failed test into its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.processes import ManagedProcess

_LINES = 80  # of each log, from its end


class _Watched(NamedTuple):
    process: ManagedProcess
    log_start: int  # characters; what is before belongs to earlier tests


_watched = pytest.StashKey[list[_Watched]]()


def watch(node: pytest.Item, process: ManagedProcess) -> None:
    """Show in the report, should the test fail, what this process logs from now on."""
    node.stash.setdefault(_watched, []).append(_Watched(process, process.log_size()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, pytest.TestReport, Any]:
    """Add the ends of the logs to the report of a failed phase."""
    report = yield
    if report.failed:
        for process, log_start in item.stash.get(_watched, []):
            lines = process.logs()[log_start:].splitlines()[-_LINES:]
            report.sections.append((f"log of {process.name} ({call.when})", "\n".join(lines)))
    return report
