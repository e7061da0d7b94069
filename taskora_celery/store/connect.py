"""From a URL and the transport's options to redis-py clients: plain, TLS, unix socket, Sentinel, Cluster."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import redis
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskora_celery.errors import SettingsError

__all__ = ["Endpoint", "async_client", "check", "client", "close", "pubsub_of", "query_options"]

#: redis-py takes these from the query of a URL, too.
_PASSWORD_OPTION = re.compile(r"([?&](?:ssl_)?password=)[^&;]*", re.IGNORECASE)


class Endpoint(msgspec.Struct, frozen=True):
    """Where a Redis is, and how to talk to it."""

    url: str
    #: Celery's ``redis_backend_use_ssl`` or ``broker_use_ssl``: arguments of redis-py's TLS connection.
    ssl: dict[str, Any] | None = None
    #: Sentinel's name of the master, and arguments for the connections to the sentinels.
    master_name: str | None = None
    sentinel_kwargs: dict[str, Any] | None = None
    #: Comes before every key: kombu's and Celery's ``global_keyprefix``.
    global_keyprefix: str = ""

    def shown(self) -> str:
        """Return the URL without its passwords, also where it is wrong, as one with a ``/`` or a ``#`` in its password is."""
        return ";".join(_without_password(part) for part in self.url.split(";"))

    def same_server(self, other: Endpoint | None) -> bool:
        """Whether both lead to the same place, whatever their databases and prefixes are."""
        return other is not None and _place(self.url) == _place(other.url) and self.master_name == other.master_name

    def same_account(self, other: Endpoint | None) -> bool:
        """Whether both lead to the same server, as the same user."""
        return other is not None and self.same_server(other) and _user(self.url) == _user(other.url)

    @property
    def is_cluster(self) -> bool:
        """Whether this is a Redis Cluster."""
        return self.url.startswith(("redis+cluster://", "rediss+cluster://"))


def client(endpoint: Endpoint, timeout: float | None) -> Any:
    """Return a redis-py client whose connections give up after ``timeout`` seconds (None: never), without retries."""
    return _build(endpoint, timeout, redis, redis.sentinel.Sentinel, redis.RedisCluster, Retry(NoBackoff(), 0))


def check(endpoint: Endpoint) -> None:
    """Look whether a client can be made; nothing is connected.

    :raises SettingsError: a wrong option in the URL, or one that is missing.
    """
    if endpoint.is_cluster:  # its client would connect at once
        return
    try:
        made = client(endpoint, 1.0)
        pool = made.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # redis-py looks at its options only now
        made.close()
    except SettingsError:
        raise
    except (redis.RedisError, ValueError, TypeError) as exc:
        raise SettingsError(f"the Redis for job records, {endpoint.shown()}, cannot be used: {exc}") from exc


def async_client(endpoint: Endpoint, timeout: float | None) -> Any:
    """Return a ``redis.asyncio`` client, as :func:`client` does for threads."""
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.asyncio.sentinel import Sentinel

    class Once(AsyncRetry):  # type: ignore[misc]
        """Does not even reconnect after a failure: a subscription's writer and its reader would both, and lose a socket."""

        async def call_with_retry(self, do: Any, *_: Any, **__: Any) -> Any:
            return await do()

    retry = (AsyncRetry if timeout else Once)(NoBackoff(), 0)
    return _build(endpoint, timeout, redis.asyncio, Sentinel, redis.asyncio.RedisCluster, retry)


async def pubsub_of(client: Any) -> Any:
    """Return an asynchronous client's subscription; nothing is subscribed yet. It is closed by itself, before the client is.

    :raises redis.RedisError: the nodes of a cluster cannot be found.
    """
    if hasattr(client, "initialize"):
        await client.initialize()  # a cluster's client has to know its nodes; another has nothing to do
    if hasattr(client, "pubsub"):
        return client.pubsub()
    # The cluster's client of redis-py before 8: any node will do, an announcement goes to all of them.
    from redis.asyncio import ConnectionPool, Redis

    node = client.get_default_node()
    return Redis(connection_pool=ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)).pubsub()


async def close(resource: Any) -> None:
    """Close an asynchronous client or subscription."""
    # redis-py 4 has only close(), and redis-py 5 warns of it.
    await (resource.aclose() if hasattr(resource, "aclose") else resource.close())


def _build(endpoint: Endpoint, timeout: float | None, api: Any, sentinel_cls: Any, cluster_cls: Any, retry: Any) -> Any:
    if not all(_is_sound(part) for part in endpoint.url.split(";")):  # Python's words for it would tell a part of the password
        raise SettingsError(f"{endpoint.shown()} is no URL: write special characters in its password as %2F for /, %23 for #")
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout or 5.0, "retry": retry}
    if timeout is None:  # who listens for ever must notice a peer that is gone without a word
        options["socket_keepalive"] = True
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        if all(hasattr(socket, name) for name in names):  # found out by the kernel, within half a minute, and without waking up
            options["socket_keepalive_options"] = dict(zip((getattr(socket, name) for name in names), (15, 5, 3), strict=True))
    url = re.sub(r"(?<=[?&])decode_responses=[^&;]*&?", "", endpoint.url)  # records are bytes
    if url.startswith(("sentinel://", "sentinels://")):
        return _sentinel(endpoint, {**options, **_ssl_arguments(endpoint)}, sentinel_cls)
    if endpoint.is_cluster:
        return cluster_cls.from_url(url.replace("+cluster://", "://", 1), socket_timeout=timeout, socket_connect_timeout=timeout)
    if url.startswith("redis+socket://"):
        url = "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")  # kombu's name for it
    if endpoint.ssl and url.startswith("redis://"):
        url = "rediss://" + url.removeprefix("redis://")
    if url.startswith("rediss://"):
        options.update({k: v for k, v in _ssl_arguments(endpoint).items() if k != "ssl"})
        url = _celery_ssl_names(url)
    return api.Redis.from_url(url, **options)


def _sentinel(endpoint: Endpoint, options: dict[str, Any], sentinel_cls: Any) -> Any:
    parts = [urlsplit(part) for part in endpoint.url.split(";") if part]
    hosts = [(part.hostname or "localhost", part.port or 26379) for part in parts]
    first = parts[0]
    if not endpoint.master_name:
        raise SettingsError(
            f"{endpoint.shown()} needs the master's name: set 'master_name' in result_backend_transport_options "
            "or broker_transport_options, or add ?master_name=… to taskora_redis_url"
        )
    if first.password:
        options["password"] = unquote(first.password)
    if first.username:
        options["username"] = unquote(first.username)
    options["db"] = int(first.path.strip("/") or 0)
    sentinels = sentinel_cls(
        hosts, sentinel_kwargs={"socket_timeout": options["socket_timeout"], **(endpoint.sentinel_kwargs or {})}
    )
    return sentinels.master_for(endpoint.master_name, **options)


def _ssl_arguments(endpoint: Endpoint) -> dict[str, Any]:
    """Return the TLS arguments under redis-py's names; ``True`` alone means the defaults."""
    if endpoint.url.startswith("sentinels://") or endpoint.ssl:
        return {"ssl": True, **(endpoint.ssl or {})}
    return dict(endpoint.ssl or {})


def _celery_ssl_names(url: str) -> str:
    """Celery writes ``ssl_cert_reqs=CERT_NONE`` where redis-py wants ``none``."""
    for name in ("NONE", "OPTIONAL", "REQUIRED"):
        url = url.replace(f"ssl_cert_reqs=CERT_{name}", f"ssl_cert_reqs={name.lower()}")
    return url


def _place(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url.split(";", 1)[0])
    return parts.scheme, parts.hostname or parts.path, parts.port


def _user(url: str) -> tuple[str | None, str | None]:
    parts = urlsplit(url.split(";", 1)[0])
    return parts.username or None, parts.password


def _without_password(url: str) -> str:
    url = _PASSWORD_OPTION.sub(r"\1***", url)
    scheme, _, rest = url.partition("://")
    before, _, place = rest.rpartition("@")
    user, colon, _ = before.partition(":")
    if not colon or (_is_sound(url) and "@" not in urlsplit(url).netloc):
        return url
    return f"{scheme}://{user}:***@{place}"


def _is_sound(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:  # what stands there is no port, but a part of a password
        return False
    return True


def query_options(url: str) -> Mapping[str, str]:
    """Return the options in the query of a URL, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(url.split(";", 1)[0]).query).items()}
