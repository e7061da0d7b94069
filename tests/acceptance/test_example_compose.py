"""example_project/docker-compose.yml, as far as it can be tried without Docker: its commands run, on a Redis with its options."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from example_project.celery import app
from example_project.flaky_server import FlakyServer
from example_project.tasks import word_count
from tests.support.apps import pointed_at
from tests.support.commands import Commands
from tests.support.pages import blocks_of
from tests.support.processes import ManagedProcess
from tests.support.redis_server import RedisServer, find_binary
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = REPO_ROOT / "example_project"
COMPOSE: dict[str, Any] = yaml.safe_load((DIRECTORY / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (DIRECTORY / "Dockerfile").read_text("utf-8")


def test_it_has_a_redis_workers_and_what_shows_jobs() -> None:
    """Nothing listens beyond this machine."""
    assert set(SERVICES) == {"redis", "worker", "board", "flower"}
    for name in set(SERVICES) - {"redis"}:
        assert SERVICES[name]["environment"]["REDIS_URL"] == "redis://redis:6379/0"
        assert set(SERVICES[name]["depends_on"]) <= set(SERVICES)
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", []))
    assert re.fullmatch(r"redis:\d+-alpine", SERVICES["redis"]["image"])


def test_one_service_builds_the_image_of_all() -> None:
    """From this repository. Of several that build it at once all but one may fail; and nobody asks a registry for it."""
    assert [name for name, service in SERVICES.items() if "build" in service] == ["worker"]
    build = SERVICES["worker"]["build"]
    assert (DIRECTORY / build["context"]).resolve() == REPO_ROOT
    assert (REPO_ROOT / build["dockerfile"]).is_file()
    policies = {name: service["pull_policy"] for name, service in SERVICES.items() if service["image"] == "taskora-example"}
    assert policies == {"worker": "build", "board": "never", "flower": "never"}


def test_the_image_is_made_of_what_is_there() -> None:
    """Each path that is copied exists, and its Python is one that is tested."""
    copied = [path for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for path in line.split()[:-1]]
    assert "taskora_celery" in copied
    assert not [path for path in copied if not (REPO_ROOT / path).exists()]
    (version,) = re.findall(r"^FROM python:(3\.\d+)-slim", DOCKERFILE, re.MULTILINE)
    assert f"Python :: {version}" in (REPO_ROOT / "pyproject.toml").read_text("utf-8")


def test_its_redis_and_its_worker_run_the_jobs_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the very options of the file; only the addresses are others, and the tree that is read is a small one."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "one.py").write_text("def first():\n    return 1\n")
    (block,) = blocks_of("../example_project/README.md")
    assert "index_sources.delay({})" in block
    assert "http://127.0.0.1:PORT/orders" in block
    program, *options = SERVICES["redis"]["command"]
    assert program == "redis-server"
    lines = [f"{name.removeprefix('--')} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]
    with RedisServer(*lines, binary=find_binary()) as server:
        url = server.url(0)
        command = [sys.executable, "-m", *SERVICES["worker"]["command"]]
        env = {"REDIS_URL": url, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPO_ROOT)}
        with ManagedProcess("worker", command, tmp_path / "worker.log", env=env, cwd=REPO_ROOT) as worker:
            worker.wait_for_log(r" ready\.$", 60)
            with pointed_at(app, url):
                assert word_count.delay("a b a").get(timeout=30)["words"] == 3
                with FlakyServer() as server_of_pages:
                    typed = block.replace("({})", f"({{'root': {str(tmp_path / 'tree')!r}}})")
                    exec(typed.replace("http://127.0.0.1:PORT", server_of_pages.url), {})
            assert worker.stop() == 0
    assert "info indexed {'files': 1, 'unparsable': 0}" in capsys.readouterr().out


def test_its_board_lets_in_who_has_the_password(redis_url: str, tmp_path: Path) -> None:
    """K4: it listens as in the container, on a port of its own, and is asked for as on the machine."""
    board = SERVICES["board"]
    command = [sys.executable, "-m", *board["command"], "--port=0"]
    env = {**Commands(redis_url, tmp_path).env, **board["environment"], "REDIS_URL": redis_url}
    with ManagedProcess("board", command, tmp_path / "board.log", env=env, cwd=REPO_ROOT) as process:
        port = process.wait_for_log(r"^board: http://\S+:(\d+)", 60)[1]
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{port}/"
            assert httpx.get(url).status_code == 401
            assert httpx.get(url, auth=tuple(board["environment"]["TASKORA_BOARD_AUTH"].split(":"))).status_code == 200


def test_flower_knows_its_options_and_its_configuration() -> None:
    """K2: where Flower is installed."""
    pytest.importorskip("flower")
    from flower.options import default_options
    from tornado.options import options

    _, _, _, command, *arguments = SERVICES["flower"]["command"]
    given = dict(argument.removeprefix("--").split("=") for argument in arguments)
    assert command == "flower"
    assert set(given) <= set(options.as_dict()) | set(default_options)
    names: dict[str, Any] = {}
    exec((REPO_ROOT / given["conf"]).read_text("utf-8"), names)
    assert names["tasks_columns"].startswith("name,")
