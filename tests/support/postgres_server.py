"""A PostgreSQL for the tests: a private cluster on a free port, run by a user without rights, where the binaries are there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import ManagedProcess
from tests.support.redis_server import HOST, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

START_TIMEOUT = 30.0  # seconds
#: Debian puts initdb and postgres here, away from PATH.
_DEBIAN = "/usr/lib/postgresql/*/bin"

NO_BINARIES = "no PostgreSQL: install one (Debian and Ubuntu: `apt-get install postgresql`; macOS: `brew install postgresql`)"


class PostgresNotFoundError(Exception):
    """This machine has no PostgreSQL server that the tests could start."""


def find_binaries() -> Path:
    """The directory with initdb and postgres.

    :raises PostgresNotFoundError: there is none.
    """
    on_path = shutil.which("initdb")
    for directory in (*([Path(on_path).resolve().parent] if on_path else []), *sorted(Path("/").glob(_DEBIAN[1:]), reverse=True)):
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise PostgresNotFoundError(NO_BINARIES)


def _account() -> dict[str, object]:
    """How to become somebody who may run a server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise PostgresNotFoundError("PostgreSQL does not run as root, and there is nobody else")


class PostgresServer:
    """Started by `with`; nothing is left of it afterwards."""

    def __init__(self, binaries: Path | None = None) -> None:
        self._binaries = binaries or find_binaries()
        self._account = _account()
        self._directory = Path(tempfile.mkdtemp(prefix="taskora-postgres-"))
        self._process: ManagedProcess | None = None
        self.port = 0

    @property
    def dsn(self) -> str:
        """What psycopg connects to."""
        return f"host={HOST} port={self.port} user=postgres dbname=postgres connect_timeout=10"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and remove its files."""
        if self._process is not None:
            self._process.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> None:
        data = self._directory / "data"
        if self._account:
            shutil.chown(self._directory, self._account["user"], self._account["group"])  # type: ignore[call-overload]
        init = [self._binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--no-locale", "-E", "UTF8"]
        subprocess.run(init, check=True, capture_output=True, cwd=self._directory, **self._account)  # type: ignore[call-overload]
        self.port = free_port()
        command = [str(self._binaries / "postgres"), "-D", str(data), "-h", HOST, "-p", str(self.port), "-F"]
        command += ["-k", str(self._directory)]
        if self._account:
            command = [
                "setpriv",
                f"--reuid={self._account['user']}",
                f"--regid={self._account['group']}",
                "--clear-groups",
                *command,
            ]
        self._process = ManagedProcess("postgres", command, self._directory / "log", cwd=self._directory)
        self._process.start()
        self._process.wait_for_log("database system is ready to accept connections", START_TIMEOUT)
