"""Bytes in Redis that nobody of ours wrote, or that were damaged: whoever reads them says so, and raises nothing else."""

from __future__ import annotations

import importlib
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from taskora_celery import JobHandle, JobNotFoundError, StoreUnavailableError
from taskora_celery.encoding import pack
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.text import exposition
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.redis import RedisStore
from tests.support.hostile import JOB, damaged_jobs, write, write_foreign

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from celery import Celery

#: Faces by the module of their command, with the arguments that make each read all there is.
COMMANDS = {
    "list": ([], ["-j"], ["--task", "*"]),
    "show": ([JOB], [JOB, "-j"]),
    "logs": ([JOB], [JOB, "-j"]),
    "watch": ([JOB, "--timeout", "0.01"],),
}


def _read_by_handle(app: Celery) -> None:
    handle = JobHandle(JOB, app=app)
    for read in (
        handle.record,
        handle.status,
        handle.get_progress,
        handle.get_logs,
        handle.history,
        lambda: handle.get_logs(level="warn", limit=1),
        lambda: list(handle.events(timeout=0.01)),
        lambda: handle.cancel("again"),
    ):
        try:
            read()
        except (JobNotFoundError, TimeoutError, StoreUnavailableError):  # no record, no word, another program's data
            continue


def _read_by_commands(app: Celery) -> None:
    for name, calls in COMMANDS.items():
        command = importlib.import_module(f"taskora_celery.cli.{name}").command
        for arguments in calls:
            result = CliRunner().invoke(command, arguments, obj=CLIContext(app=app, no_color=True, workdir=None))
            assert result.exception is None or isinstance(result.exception, SystemExit), (name, arguments, result.exc_info)


def _read_by_exporter(url: str) -> None:
    store = RedisStore(Endpoint(url))
    text = exposition(Collector(store).samples())
    store.close()
    assert list(text_string_to_metric_families(text))


@settings(
    max_examples=80,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_reader_raises_for_damaged_records(
    whole_job: tuple[Celery, dict[str, Any]], redis_url: str, redis_client: redis.Redis, data: st.DataObject
) -> None:
    """Fault 22, F6: each of the faces that read: the handle, the commands, the exporter."""
    app, kept = whole_job
    write(redis_client, data.draw(damaged_jobs(kept), label="job"))
    _read_by_handle(app)
    _read_by_commands(app)
    _read_by_exporter(redis_url)


@pytest.mark.parametrize("kind", ["string", "list", "set"])
def test_no_reader_raises_for_another_programs_keys(
    whole_job: tuple[Celery, dict[str, Any]], redis_url: str, redis_client: redis.Redis, kind: str
) -> None:
    """Fault 22: keys of the wrong type are no records."""
    app, kept = whole_job
    write(redis_client, kept)
    write_foreign(redis_client, kind)
    _read_by_handle(app)
    _read_by_commands(app)
    _read_by_exporter(redis_url)


class _Trap:
    """Makes a directory where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_among_the_records_is_never_loaded(
    whole_job: tuple[Celery, dict[str, Any]], redis_url: str, redis_client: redis.Redis, tmp_path: Path,
    protocol: int, packed: bool,
) -> None:  # fmt: skip
    """Fault 22: in every field, entry and attempt, as it is and packed as a value: reading it runs no code."""
    app, kept = whole_job
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(_Trap(sprung), protocol)
    pickle.loads(trap)
    sprung.rmdir()  # so the trap works
    data = pack(trap) if packed else trap
    for field in [*kept["record"], None]:
        record = dict.fromkeys(kept["record"], data) if field is None else {**kept["record"], field: data}
        attempts, journal = ([*kept[name], data, b"9 9 1 " + data] for name in ("attempts", "journal"))
        write(redis_client, {"record": record, "journal": journal, "attempts": attempts, "counts": {data: data}})
        _read_by_handle(app)
        _read_by_commands(app)
    _read_by_exporter(redis_url)
    assert not sprung.exists()
