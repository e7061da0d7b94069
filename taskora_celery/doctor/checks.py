"""What the facts mean: one pure function for each check of rule K7, from facts to findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from taskora_celery.doctor.facts import Facts, ServerFacts, WorkerFacts

__all__ = ["CHECKS", "Finding", "Level", "diagnose"]

#: Clocks may differ by so much, in seconds: leases are renewed early enough for it, and times in records are still of use.
SKEW_MAX = 1.0
#: A task whose limit is longer, in seconds, is one whose loss hurts.
LONG = 300.0
#: The oldest Redis that kombu's transport and our scripts run on.
OLDEST_REDIS = (6, 2)
#: What the user of the Redis for job records must be allowed to do, as ACL rules.
ACL_COMMANDS = "+@connection +@read +@write +@pubsub +@scripting +time"
#: So many names stand in one line; the rest are counted.
NAMES_SHOWN = 5


class Level:
    """How bad it is: as it should be, worth knowing, or wrong."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One line of the doctor's: what was looked at, what was found, and what to do about it."""

    check: str
    level: str
    message: str
    #: What to do; None where nothing is to be done.
    advice: str | None = None


def diagnose(facts: Facts) -> list[Finding]:
    """Return what all checks found."""
    return [finding for check in CHECKS for finding in check(facts)]


def check_settings(facts: Facts) -> Iterator[Finding]:
    """Look whether the settings can be used."""
    if facts.settings_error is not None:
        yield Finding(
            "settings", Level.WRONG, facts.settings_error, "correct it: no worker starts with it (all settings: docs/settings.md)"
        )


def check_servers(facts: Facts) -> Iterator[Finding]:
    """Look whether the broker and the store answer."""
    for server in facts.servers:
        if server.error is None:
            product = "" if server.redis_version is None else f" (Redis {server.redis_version})"
            yield Finding(server.role, Level.OK, f"{server.where} answers{product}")
        else:
            yield Finding(
                server.role, Level.WRONG, f"{server.where} cannot be reached: {server.error}",
                "see that it runs, that this machine may connect to it, and that user, password and TLS options are right",
            )  # fmt: skip
    if facts.servers and not any("store" in server.role for server in facts.servers) and facts.settings_error is None:
        yield Finding(
            "store", Level.WARNING, "no Redis is known to keep job records in: no logs, no history, no cancel",
            "set taskora_redis_url to a Redis",
        )  # fmt: skip


def check_records(facts: Facts) -> Iterator[Finding]:
    """Look whether job records can be kept where they are to be."""
    for server in facts.servers:
        if server.refuses is not None:
            yield Finding(
                "records", Level.WRONG, f"job records cannot be written to {server.where}: {server.refuses}. Jobs run, and say "
                "nothing", _advice_on(server.refuses, server),
            )  # fmt: skip
        if server.deaf is not None:
            yield Finding(
                "records", Level.WARNING, f"announcements cannot be heard on {server.where}: {server.deaf}. A cancel reaches its "
                "job with the next report or renewal", _advice_on(server.deaf, server),
            )  # fmt: skip


def _advice_on(refusal: str, server: ServerFacts) -> str:
    """Return what to do about Redis's words."""
    if "maxmemory" in refusal or refusal.startswith("OOM"):
        return "it is full: raise its maxmemory, or keep job records in a Redis of their own (taskora_redis_url)"
    if "read only" in refusal or refusal.startswith("READONLY"):
        return "it is a replica: give the primary's address, or that of a Sentinel, in taskora_redis_url"
    if any(word in refusal for word in ("permission", "NOPERM", "can't run this command", "can't access at least one")):
        return f"let its user do so: ACL SETUSER … ~{server.prefix}* &{server.prefix}* {ACL_COMMANDS}"
    return "see to it that this user may write there, or name another Redis in taskora_redis_url"


def check_versions(facts: Facts) -> Iterator[Finding]:
    """Look at what runs here, on the servers and on the workers."""
    yield Finding("versions", Level.OK, "here: " + ", ".join(f"{name} {number}" for name, number in facts.packages.items()))
    for server in facts.servers:
        if server.redis_version is not None and _numbers(server.redis_version) < OLDEST_REDIS:
            yield Finding(
                "versions", Level.WRONG, f"{server.where} is Redis {server.redis_version}; 6.2 is the oldest that works",
                "upgrade the server",
            )  # fmt: skip
    for worker in _ours(facts):
        differing = [
            f"{name} {number} (here {facts.packages[name]})"
            for name, number in worker.packages.items()
            if name in facts.packages and facts.packages[name] != number and name != "Python"
        ]
        if differing:
            yield Finding(
                "versions", Level.WARNING, f"worker {worker.name} has {', '.join(differing)}",
                "deploy the same versions everywhere",
            )  # fmt: skip


def check_workers(facts: Facts) -> Iterator[Finding]:
    """Look who consumes from this broker: all with this library, or others too."""
    if facts.workers_error is not None:
        yield Finding(
            "workers", Level.WRONG, f"cannot be asked: {facts.workers_error}",
            "see that this user may do on the broker what kombu does; workers need the same",
        )  # fmt: skip
    if facts.workers is None:
        return
    if not facts.workers:
        yield Finding(
            "workers", Level.WARNING, "no worker answered", "start one (a solo worker that is busy does not answer either)"
        )  # fmt: skip
    ours = _ours(facts)
    if ours:
        yield Finding("workers", Level.OK, f"{len(ours)} with this library: {_names(worker.name for worker in ours)}")
    foreign = [worker.name for worker in facts.workers if worker.version is None]
    if foreign and _is_redis_broker(facts):
        yield Finding(
            "workers", Level.WRONG, f"without this library in the same Redis database: {_names(foreign)}. They honour no claim, "
            "and the shortest visibility_timeout of any worker there holds for all messages",
            "install this library there with the same settings, or give the other app a database (or a key prefix) of its own",
        )  # fmt: skip


def check_recovery(facts: Facts) -> Iterator[Finding]:
    """Look how soon the messages of a dead worker come back (rule D11)."""
    if facts.visibility_timeout is None or facts.sweep_interval is None:
        return
    told = [worker.visibility_timeout for worker in _ours(facts) if worker.visibility_timeout is not None]
    effective = min([facts.visibility_timeout, *told])
    yield Finding(
        "recovery", Level.OK,
        f"visibility timeout {effective:g} s: so long after its last renewal a dead worker's messages come back, by any worker "
        f"with this library; kombu's own sweep runs every {facts.sweep_interval:g} s",
    )  # fmt: skip
    if len({facts.visibility_timeout, *told}) > 1:
        all_told = ", ".join(f"{worker.name} {worker.visibility_timeout:g} s" for worker in _ours(facts)
                             if worker.visibility_timeout is not None)  # fmt: skip
        yield Finding(
            "recovery", Level.WRONG, f"visibility timeouts differ: here {facts.visibility_timeout:g} s, {all_told}; the shortest "
            "holds for the messages of all", "give all the same visibility_timeout in broker_transport_options",
        )  # fmt: skip
    if facts.sweep_warning is not None:
        message, _, advice = facts.sweep_warning.partition(". ")
        yield Finding("recovery", Level.WARNING, message, advice)


def check_clocks(facts: Facts) -> Iterator[Finding]:
    """Compare the clocks of this machine, of the servers, and of the workers."""
    clocks = [(f"the {server.role}'s", server.ahead) for server in facts.servers if server.ahead is not None]
    clocks += [(f"worker {worker.name}'s", worker.ahead) for worker in facts.workers or () if worker.ahead is not None]
    if not clocks:
        return
    # Against the server's where there is one: it is what all the others meet at.
    against, base = next(((f"the {server.role}'s", server.ahead) for server in facts.servers if server.ahead is not None),
                         ("this machine's", 0.0))  # fmt: skip
    skewed = [(whose, ahead - base) for whose, ahead in [("this machine's", 0.0), *clocks] if abs(ahead - base) > SKEW_MAX]
    for whose, by in skewed:
        yield Finding(
            "clocks", Level.WRONG, f"{whose} clock is {abs(by):.1f} s {'ahead of' if by > 0 else 'behind'} {against}: messages "
            "are put back too early or too late, and times in records are wrong", "let NTP (chrony, systemd-timesyncd) set it",
        )  # fmt: skip
    if not skewed:
        yield Finding("clocks", Level.OK, f"all {len(clocks) + 1} agree within {SKEW_MAX:g} s")


def check_memory(facts: Facts) -> Iterator[Finding]:
    """Look what Redis does when it is full."""
    for server in facts.servers:
        policy = server.maxmemory_policy
        if policy is None:
            continue
        if policy == "noeviction":
            yield Finding("memory", Level.OK, f"{server.where}: maxmemory-policy noeviction")
            continue
        lost = "job records and fences" if policy.startswith("volatile-") else "queued messages, job records and fences"
        yield Finding(
            "memory", Level.WRONG if server.maxmemory else Level.WARNING,
            f"{server.where}: maxmemory-policy {policy} throws away {lost} when memory runs out"
            + ("" if server.maxmemory else " (no maxmemory is set, so it does not as things are)"),
            "set maxmemory-policy noeviction",
        )  # fmt: skip


def check_tasks(facts: Facts) -> Iterator[Finding]:
    """Look whether tasks can be imported, and for long ones whose message is gone when their worker dies."""
    if facts.tasks_error is not None:
        yield Finding(
            "tasks", Level.WRONG, f"the app's modules cannot be imported: {facts.tasks_error}",
            "correct that, or the app's imports and include: no worker starts with it",
        )  # fmt: skip
    if not facts.tasks:
        return
    lost = [task.name for task in facts.tasks if task.early and task.limit is not None and task.limit > LONG]
    if lost:
        yield Finding(
            "tasks", Level.WRONG, f"time limit over {LONG:g} s, but acknowledged before they run: {_names(lost)}. When their "
            "worker dies they are gone without a word",
            "set acks_late=True and reject_on_worker_lost=True; where a second run would do harm, max_stalls=0 makes it fail",
        )  # fmt: skip
    else:
        yield Finding("tasks", Level.OK, f"{len(facts.tasks)} tasks; none that runs long is acknowledged early")


def check_events(facts: Facts) -> Iterator[Finding]:
    """Look whether workers send events, and whether anybody listens."""
    silent = [worker.name for worker in _ours(facts) if worker.events is False]
    if silent:
        yield Finding(
            "events", Level.WRONG if facts.monitored else Level.WARNING,
            f"not sent by {_names(silent)}" + ("; a monitor that listens sees nothing of them" if facts.monitored else ""),
            "start workers with -E, or set worker_send_task_events=True (a Flower that runs asks them for it)",
        )  # fmt: skip
    elif any(worker.events for worker in _ours(facts)):
        yield Finding("events", Level.OK, "all workers send them")


def check_flower(facts: Facts) -> Iterator[Finding]:
    """Look for Flower."""
    here = "not installed here" if facts.flower is None else f"{facts.flower} is installed here"
    if facts.flower is not None and _numbers(facts.flower) < (2, 0):
        yield Finding("flower", Level.WARNING, f"Flower {here}; 2.0 is the oldest that is known to work", "upgrade flower")
    else:
        listens = "something listens to events on this broker" if facts.monitored else "nothing listens to events on this broker"
        yield Finding("flower", Level.OK, f"Flower {here}; {listens}")


CHECKS = (
    check_settings, check_servers, check_records, check_versions, check_workers, check_recovery, check_clocks, check_memory,
    check_tasks, check_events, check_flower,
)  # fmt: skip


def _ours(facts: Facts) -> list[WorkerFacts]:
    return [worker for worker in facts.workers or () if worker.version is not None]


def _is_redis_broker(facts: Facts) -> bool:
    return any("broker" in server.role and server.redis_version is not None for server in facts.servers)


def _names(names: Iterable[str]) -> str:
    found: Sequence[str] = sorted(names)
    more = len(found) - NAMES_SHOWN
    return ", ".join(found[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, so that they compare as numbers."""
    found = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
