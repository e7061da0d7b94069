"""A page that is a session at terminals, played: files are written, workers run, commands and Python's prompt are typed."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from taskora_celery.runtime import Runtime
from tests.support.commands import Commands
from tests.support.eager_apps import tasks_of_their_own
from tests.support.pages import DOCS
from tests.support.waiting import wait_until
from tests.support.worker import Worker, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK = re.compile(r"^```(python|pycon|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")
_JOB = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8}\b")
_HOST = re.compile(r"\S+@\S+")
_NUMBER = re.compile(r"\d+(\.\d+)?([smhd]\b)?")
_COLUMNS = 120


def alike(text: str) -> str:
    """Return what of an output does not depend on the moment: no ids, hosts, numbers or widths."""
    return re.sub(r"[ \t]+", " ", _NUMBER.sub("#", _HOST.sub("HOST", _JOB.sub("ID", text)))).strip()


class PageSession:
    """One reading of a page. Each step that shows an output has to make one like it."""

    def __init__(self, page: str, redis_url: str, directory: Path) -> None:
        self._blocks = _BLOCK.findall((DOCS / page).read_text("utf-8"))
        self._directory = directory
        self._env = {"REDIS_URL": redis_url}
        self._worker: Worker | None = None
        self._commands = Commands(redis_url, directory, app="shop")
        self._url = redis_url
        self._names: dict[str, Any] = {"__name__": "__console__"}

    def play(self) -> None:
        """Write the files as they are at the end of the page, then do step after step."""
        self._commands.env.update(self._env)
        self._commands.env["PYTHONPATH"] = os.pathsep.join([str(self._directory), self._commands.env["PYTHONPATH"]])
        with self.files():
            try:
                for language, text in self._blocks:
                    if language == "pycon":
                        self._type_to_python(text)
                    elif language == "console":
                        self._type_to_shells(text)
            finally:
                self._commands.close()
                if self._worker is not None:
                    self._worker.close()

    @contextlib.contextmanager
    def files(self) -> Iterator[None]:
        """Write the page's files, and make them importable."""
        self._write_files()
        with self._shop_importable():
            yield

    def _write_files(self) -> None:
        for language, text in self._blocks:
            name = _FILE.match(text)
            if language == "python" and name is not None:
                with (self._directory / name[1]).open("a", encoding="utf-8") as file:
                    file.write(text)

    @contextlib.contextmanager
    def _shop_importable(self) -> Iterator[None]:
        before = os.environ.get("REDIS_URL")
        os.environ.update(self._env)
        sys.path.insert(0, str(self._directory))
        try:
            with tasks_of_their_own():
                yield
                Runtime.forget(importlib.import_module("shop").app)
        finally:
            sys.path.remove(str(self._directory))
            sys.modules.pop("shop", None)
            if before is None:
                del os.environ["REDIS_URL"]
            else:
                os.environ["REDIS_URL"] = before

    def _type_to_python(self, text: str) -> None:
        for example in doctest.DocTestParser().get_examples(text):
            wanted = alike(example.exc_msg or example.want)
            # What shows a running job is looked at until it shows what the page does.
            if example.source.startswith("handle.get_progress"):
                wait_until(lambda example=example, wanted=wanted: alike(self._run(example.source)) == wanted, wanted)  # type: ignore[misc]
            else:
                made = alike(self._run(example.source))
                assert made == wanted, f"{example.source}{made}"

    def _run(self, source: str) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            try:
                exec(compile(source, "<page>", "single"), self._names)
            except Exception as exc:
                return traceback.format_exception_only(exc)[-1]
        return output.getvalue()

    def _type_to_shells(self, text: str) -> None:
        for typed, shown in re.findall(r"^(\^C|\$ .*)\n((?:(?!\^C|\$ ).*\n)*)", text, re.MULTILINE):
            if typed == "^C":
                self._stop_worker(shown)
            elif " worker " in typed:
                self._start_worker()
            else:
                self._type_to_shell(typed.split()[5:], shown)

    def _type_to_shell(self, arguments: list[str], shown: str) -> None:
        """Run a command of `celery -A shop jobs`; the page's id stands for the last job's."""
        handle = self._names["handle"]
        arguments = [handle.id[:8] if _JOB.fullmatch(argument) else argument for argument in arguments]
        code, made = self._commands.terminal(*arguments, columns=_COLUMNS).end()
        assert code == 0, made
        assert [alike(line) for line in made.splitlines()] == [alike(line) for line in shown.splitlines()], made

    def _start_worker(self) -> None:
        if self._worker is None:
            env = {**worker_env(self._url, self._env), "PYTHONPATH": self._commands.env["PYTHONPATH"]}
            self._worker = Worker("shop", log_dir=self._directory, env=env)
            self._worker.start()
            self._worker.wait_ready()
        else:
            self._worker.restart()

    def _stop_worker(self, shown: str) -> None:
        assert self._worker is not None
        before = self._worker.log_size()
        self._worker.signal_all(signal.SIGINT)  # as a terminal does
        for line in filter(None, shown.splitlines()):
            self._worker.wait_for_log(re.escape(line), after=before)
        self._worker.wait()
