"""The store on Redis 6.2 and newer (or Valkey): plain, TLS, Sentinel, Cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.records import Outcome
from taskora_celery.store.announcements import packed, unpacked
from taskora_celery.store.answers import begun_in, or_refused, sound
from taskora_celery.store.connect import Endpoint, client
from taskora_celery.store.counting import counts_of_loss
from taskora_celery.store.index import RedisIndex
from taskora_celery.store.journal import STALLED, encode_cancel, encode_loss, encode_retry
from taskora_celery.store.keys import JobKeys
from taskora_celery.store.protocol import (
    NO_COUNTS,
    Begin,
    Begun,
    CancelOutcome,
    CancelRequest,
    Ended,
    Loss,
    Lost,
    Reply,
    Report,
    Shutdown,
    Snapshot,
    Verdict,
)
from taskora_celery.store.snapshots import read_arguments, read_snapshot
from taskora_celery.store.wire import Call, ClusterWire, Wire, as_one, load_script

__all__ = ["RedisStore"]

BEGIN = load_script("begin", 3)
REPORT = load_script("report", 3)
LOSE = load_script("lose", 3)
CANCEL = load_script("cancel", 3)
READ = load_script("read", 3)

#: So many reports in one pipeline at most: it bounds what waits in both socket buffers.
PIPELINE_REPORTS = 500

#: By number: to call the enum's class takes five times as long.
_REPLIES = {int(reply): reply for reply in Reply}
_NOT_ENDED = Ended("", 0)
_attempt_encoder = msgspec.msgpack.Encoder()


class RedisStore:
    """Keeps job records in Redis. Safe to use from several threads of one process; not over a fork.

    It holds one connection for writing, made at the first use, and readers borrow from a pool.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        prefix: str = "taskora:",
        ttl: float = 86_400.0,
        log_limit: int = 10_000,
        timeout: float = 1.0,
        index_limit: int = 10_000,
    ) -> None:
        """``ttl`` is in seconds from the last change; ``timeout`` bounds each wait for Redis, in seconds.

        ``index_limit`` is the number of jobs to list, the newest; 0 for no index.
        """
        self.endpoint = endpoint
        self.keys = JobKeys(endpoint.global_keyprefix + prefix)
        self._ttl_ms = max(int(ttl * 1000), 1)
        self._log_limit = log_limit
        self._timeout = timeout
        self.index = RedisIndex(self.keys, self._ttl_ms, index_limit)
        self._lock = threading.Lock()
        self._writer: Wire | ClusterWire | None = None
        self._reader: Any = None

    def begin(self, begin: Begin) -> Begun:
        """Count a delivery and take the job's fence."""
        return begun_in(sound(self._wire().exchange([self._begin(begin)])[0]))

    def lose(self, loss: Loss) -> Lost:
        """Record that a delivery is lost, and fence its execution off."""
        call: Call = LOSE, (
            *self.keys.of(loss.id), loss.now_ms, self._ttl_ms, self.keys.channel(loss.id), loss.tag,
            "" if loss.token is None else loss.token, loss.name, loss.attempt, loss.worker, loss.reason, loss.state or "",
            loss.error or "", "" if loss.limit is None else loss.limit, encode_loss(loss), STALLED,
            loss.created_ms, self._log_limit, "1" if not loss.counts else "",
        )  # fmt: skip
        stalls, ended = sound(self._wire().exchange([call])[0])
        if int(stalls) >= 0:
            lost = Lost(int(stalls), bool(ended), cancelled=ended == b"2")
            self._try_note(loss.id, loss.now_ms, ended=lost.ended, counts=counts_of_loss(loss, lost))
            return lost
        return Lost(None)

    def cancel(self, request: CancelRequest, *, queued: bool = False) -> CancelOutcome:
        """Decide what a request to cancel comes to, and announce it; one round trip."""
        decided, _ = sound(self._wire().exchange([self.cancel_call(request, queued=queued)])[0])
        outcome = CancelOutcome(int(decided))
        if outcome is CancelOutcome.CANCELLED:
            self._try_note(request.id, request.now_ms, ended=True)
        return outcome

    def cancel_call(self, request: CancelRequest, *, queued: bool) -> Call:
        """Return the call that decides what a request to cancel comes to."""
        return CANCEL, (
            *self.keys.of(request.id), request.now_ms, self._ttl_ms, self.keys.channel(request.id), self.keys.announcements,
            packed(request), request.reason or "", "1" if queued else "", encode_cancel(request),
            self._log_limit,
        )  # fmt: skip

    def shut_down(self, worker: str) -> None:
        """Announce that a worker shuts down."""
        with self._reading() as reader:
            reader.publish(self.keys.announcements, packed(Shutdown(worker)))

    def listen(self) -> _RedisAnnouncements:
        """Listen to announcements, with a connection of its own."""
        try:
            # No timeout: there may be nothing to hear for days. That a peer is gone without a word is the kernel's to notice.
            pubsub = client(self.endpoint, None).pubsub(ignore_subscribe_messages=True)
            pubsub.subscribe(self.keys.announcements)
            pubsub.get_message(timeout=self._timeout)  # the confirmation: from here on nothing is missed
        except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
            raise StoreUnavailableError(f"{self.endpoint.shown()}: {exc}") from exc
        return _RedisAnnouncements(pubsub)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            yield self._read_client()
        except (RedisError, RedisClusterException, OSError) as exc:
            raise StoreUnavailableError(f"{self.endpoint.shown()}: {exc}") from exc

    def report(self, reports: Sequence[Report]) -> list[Reply]:
        """Write many reports in one go, and say for each what became of it."""
        if len(reports) <= PIPELINE_REPORTS:
            return self._pipeline(reports)
        replies: list[Reply] = []
        for at in range(0, len(reports), PIPELINE_REPORTS):
            replies += self._pipeline(reports[at : at + PIPELINE_REPORTS])
        return replies

    def _pipeline(self, reports: Sequence[Report]) -> list[Reply]:
        calls: list[Call] = []
        for report in reports:
            if report.begin is not None:
                calls.append(self._begin(report.begin))
            calls.append(self._report(report))
        answers = iter(self._wire().exchange(calls))
        replies = []
        for report in reports:
            begun = or_refused(next(answers)) if report.begin is not None else None
            reply = or_refused(next(answers))
            if begun is Reply.REFUSED or reply is Reply.REFUSED:
                replies.append(Reply.REFUSED)
                continue
            fence = None if begun is None else begun_in(begun).fence
            if fence == Verdict.CANCELLED:
                replies.append(Reply.SUPERSEDED)
            elif fence not in {None, Verdict.SUPERSEDED, report.fence}:
                replies.append(Reply.UNKNOWN)  # given another fence, or none: its report is sent again
            else:
                replies.append(_REPLIES[reply])
        return replies

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """Return the record, the journal from batch ``skip`` on (None: without it), and the attempts; None if unknown."""
        arguments = read_arguments(self.keys, job_id, skip, attempts)
        with self._reading() as reader:
            try:
                answer = reader.evalsha(READ.digest.decode(), READ.keys, *arguments)
            except NoScriptError:
                answer = reader.eval(READ.source, READ.keys, *arguments)
        return read_snapshot(answer)

    def note(
        self, going: Sequence[str], ended: Sequence[str], now_ms: int, counts: Mapping[str, int] = NO_COUNTS
    ) -> None:  # fmt: skip
        """Note in the index that the state of these jobs has changed: some go on, some have ended; and add to the counts."""
        calls = self.index.note(going, ended, now_ms, counts)
        for answer in self._wire().exchange(calls) if calls else ():
            sound(answer)

    def _try_note(self, job_id: str, now_ms: int, *, ended: bool, counts: Mapping[str, int] = NO_COUNTS) -> None:
        # What it is about is written and decided; that a list does not show it yet is no reason to say that it failed.
        with suppress(StoreUnavailableError):
            self.note(*(([], [job_id]) if ended else ([job_id], [])), now_ms, counts)

    def counts(self) -> dict[str, int]:
        """Return all counts."""
        with self._reading() as reader:
            return self.index.counts(reader)

    def listed(self, limit: int, *, going: bool = False) -> list[tuple[str, int]]:
        """Return the newest jobs, at most ``limit``, with the instant (ms) at which each changed its state last."""
        with self._reading() as reader:
            return self.index.ids(reader, limit, going=going)

    def records(self, job_ids: Sequence[str], *, brief: bool = False, going: bool = False) -> list[Snapshot | None]:
        """Return each job's record with its last attempt, None where there is none; those are taken off the index.

        ``going``: those that have ended are taken off the list of those that have not.
        """
        with self._reading() as reader:
            found = self.index.records(reader, job_ids, brief=brief)
            both = list(zip(job_ids, found, strict=True))
            self.index.forget(
                reader, [job_id for job_id, record in both if record is None],
                [job_id for job_id, record in both if going and record and record.fields.get("s") in Outcome.FINAL],
            )  # fmt: skip
            return found

    @contextmanager
    def watch(self, job_ids: Sequence[str]) -> Iterator[_RedisWatch]:
        """Watch jobs for changes, from the moment that the context is entered."""
        channels = dict.fromkeys(self.keys.channel(job_id) for job_id in job_ids)
        with self._reading() as reader:
            pubsub = reader.pubsub(ignore_subscribe_messages=False)
        try:
            with self._reading():
                pubsub.subscribe(*channels)
                for _ in channels:  # the confirmations: from here on nothing is missed
                    if pubsub.get_message(timeout=self._timeout) is None:
                        raise StoreUnavailableError(f"{self.endpoint.shown()}: a subscription is not confirmed")
            yield _RedisWatch(pubsub)
        finally:
            pubsub.close()

    def close(self) -> None:
        """Give up all connections."""
        with self._lock:
            writer, self._writer = self._writer, None
            reader, self._reader = self._reader, None
        if writer is not None:
            writer.close()
        if reader is not None:
            reader.close()

    def _wire(self) -> Wire | ClusterWire:
        writer = self._writer
        if writer is None:
            with self._lock:
                writer = self._writer
                if writer is None:
                    redis = self._client(self._timeout)
                    writer = self._writer = ClusterWire(redis) if self.endpoint.is_cluster else Wire(redis, self._timeout)
        return writer

    def _client(self, timeout: float) -> Any:
        try:
            return client(self.endpoint, timeout)
        # A cluster is asked for its nodes here. Wrong options in the URL are found here, too: no job may fail for them.
        except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
            raise StoreUnavailableError(f"{self.endpoint.shown()}: {exc}") from exc

    def _read_client(self) -> Any:
        with self._lock:
            if self._reader is None:
                # A reader may wait longer than a job: a journal can be large, and nobody's work stands still meanwhile.
                self._reader = self._client(max(self._timeout, 5.0))
            return self._reader

    def _begin(self, begin: Begin) -> Call:
        record, journal, attempts, channel = self.keys.with_channel(begin.id)
        values = as_one((
            str(begin.now_ms), self._ttl_ms, begin.name, str(begin.attempt), "1" if begin.redelivered else "", begin.worker,
            str(begin.created_ms), channel, begin.fence, begin.tag, str(begin.token),
            "1" if begin.anyway else "", begin.trace, "1" if begin.over else "",
        ))  # fmt: skip
        return BEGIN, (record, journal, attempts, values)

    def _report(self, report: Report) -> Call:
        ended = report.ended or _NOT_ENDED
        batches = report.batches
        record, journal, attempts, channel = self.keys.with_channel(report.id)
        values: list[str | int] = [
            str(report.fence), report.now_ms, self._ttl_ms, channel, self._log_limit,
            ended.state, ended.at_ms, ended.reason or "", ended.error or "",
            "2" if ended.stands else "1" if ended.unaware else "", report.first,
        ]  # fmt: skip
        for batch in batches:
            values += (batch.entries, batch.logs)
        arguments: list[bytes | str | int] = [record, journal, attempts, as_one(values)]
        if report.progress or report.checkpoint or ended.keep is not None or batches:
            keep = b"" if ended.keep is None else _attempt_encoder.encode(ended.keep)
            arguments += (
                report.progress or b"",
                report.checkpoint or b"",
                keep,
                encode_retry(ended),
                *[batch.data for batch in batches],
            )
        return REPORT, arguments


class _RedisAnnouncements:
    """Messages of the channel of announcements. :meth:`next` is called by one thread, :meth:`close` by any."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self._closed = False

    def next(self) -> CancelRequest | Shutdown | None:
        try:
            if self._closed:
                raise StoreUnavailableError("closed")
            message = self._pubsub.get_message(timeout=None)
        except (RedisError, RedisClusterException, OSError, ValueError, AttributeError) as exc:  # closed meanwhile
            raise StoreUnavailableError(str(exc)) from exc
        finally:
            if self._closed:  # redis-py connects anew where it finds its connection closed
                self._disconnect()
        return None if message is None else unpacked(message["data"])

    def close(self) -> None:
        # Once is enough. Who waits reads the end of the connection; who was just about to wait, or tries again, connects and
        # subscribes anew, and what it reads first is that it has subscribed: it comes back from there, and sees this.
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        connection = self._pubsub.connection
        if connection is not None:
            connection.disconnect()


class _RedisWatch:
    """Messages of the jobs' channels. Used by one thread."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    def wait(self, timeout: float) -> bool:
        try:
            message = self._pubsub.get_message(timeout=timeout)
            changed = message is not None
            while message is not None:  # what has come meanwhile is the same news
                message = self._pubsub.get_message(timeout=0)
        except (RedisError, RedisClusterException, OSError) as exc:
            raise StoreUnavailableError(str(exc)) from exc
        return changed
