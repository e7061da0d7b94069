"""The board behind a real nginx, with the configuration that docs/board.md gives."""

from __future__ import annotations

import re
import shutil
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from tests.support.boards import SECRET, running
from tests.support.pages import DOCS
from tests.support.processes import ManagedProcess
from tests.support.redis_server import free_port
from tests.support.scripted_jobs import shop_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.board

HOST = "jobs.example.com"
BY_NAME = {"sni_hostname": HOST}
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def configuration(directory: Path, board: str, port: int) -> str:
    """What the page says, with files, ports and an address of this test."""
    (server,) = re.findall(r"^```nginx\n(.*?)^```", (DOCS / "board.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for theirs, ours in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/": f"{directory}/",
        "http://127.0.0.1:10819": board,
    }.items():
        assert theirs in server
        server = server.replace(theirs, ours)
    kept = " ".join(f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"daemon off; pid {directory}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; {kept}\n{server} }}\n"


@pytest.fixture
def client(redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """Who asks the proxy by its name, and has no secret yet."""
    if NGINX is None:
        pytest.skip("no nginx here")
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert(HOST)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{HOST}.pem")
    certificate.private_key_pem.write_to_path(tmp_path / f"{HOST}.key")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    with running(Board(shop_app(redis_url), SecretAuth(SECRET), (HOST,), read_only=False)) as board:
        (tmp_path / "nginx.conf").write_text(configuration(tmp_path, board, port))
        command = [NGINX, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]
        address = f"https://127.0.0.1:{port}"
        with (
            ManagedProcess("nginx", command, tmp_path / "nginx.log"),
            httpx.Client(base_url=address, verify=trusted, headers={"Host": HOST}) as asking,
        ):
            wait_until(lambda: answers(asking), "nginx")
            yield asking


def answers(client: httpx.Client) -> bool:
    """Whether the proxy is up."""
    try:
        client.get("/", extensions=BY_NAME)
    except httpx.ConnectError:
        return False
    return True


def test_the_board_behind_a_proxy(client: httpx.Client) -> None:
    """K4: it is let in by its name, its cookie is for TLS only, its own forms work, and its pages are live."""
    assert client.get("/", extensions=BY_NAME).status_code == 401
    entered = client.get(f"/?token={SECRET}", extensions=BY_NAME)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert entered.headers["set-cookie"].endswith("; Secure")
    assert client.get("/", extensions=BY_NAME).status_code == 200
    form = {"ids": "[]", "count": "0"}
    own, foreign = (
        client.post("/cancel", data=form, headers={"Origin": f"https://{host}"}, extensions=BY_NAME).status_code
        for host in (HOST, "evil.example")
    )
    assert (own, foreign) == (200, 403)
    with client.stream("GET", "/events", extensions=BY_NAME) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert next(stream.iter_text()), "nginx holds nothing back"
