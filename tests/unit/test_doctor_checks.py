"""What the doctor makes of facts: each check once with the thing that it checks broken, and once with it right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskora_celery.cli.doctor import exit_code
from taskora_celery.doctor.checks import Level, diagnose
from taskora_celery.doctor.facts import Facts, ServerFacts, TaskFacts, WorkerFacts
from taskora_celery.doctor.gather import worker_facts
from taskora_celery.inspecting import Replied

PACKAGES = {"taskora-celery": "1.0", "Python": "3.11.7", "celery": "5.7.0"}
REDIS = ServerFacts("broker and store", "redis://shop:6379/0", None, "7.0.15", 0.0, "noeviction", 0)
WORKER = WorkerFacts("w1@shop", "1.0", PACKAGES, 0.0, events=True, visibility_timeout=30.0)
SOUND = Facts(
    PACKAGES, (REDIS,), (WORKER,),
    tasks=(TaskFacts("shop.add", 10.0, early=True), TaskFacts("shop.render", 3_600.0, early=False)),
    visibility_timeout=30.0, sweep_interval=1.0, flower="2.2.0",
)  # fmt: skip


def broken(facts: Facts = SOUND, **changes: Any) -> tuple[list[Any], int]:
    """What is found, less what is as it should be, and the exit code."""
    facts = msgspec.structs.replace(facts, **changes)
    findings = diagnose(facts)
    return [finding for finding in findings if finding.level != Level.OK], exit_code(facts, findings)


def server(**changes: Any) -> ServerFacts:
    return msgspec.structs.replace(REDIS, **changes)


def worker(**changes: Any) -> WorkerFacts:
    return msgspec.structs.replace(WORKER, **changes)


def test_nothing_is_wrong_where_all_is_right() -> None:
    """K7: each check says what it looked at, and the exit code is 0."""
    found = diagnose(SOUND)
    assert {finding.level for finding in found} == {Level.OK}
    assert {finding.check for finding in found} == {
        "broker and store", "versions", "workers", "recovery", "clocks", "memory", "tasks", "events", "flower",
    }  # fmt: skip
    assert all(finding.advice is None for finding in found)
    assert exit_code(SOUND, found) == 0


BROKEN: dict[str, tuple[dict[str, Any], str, str, int]] = {
    "the broker is away": (
        {"servers": (server(role="broker", error="refused"), server(role="store"))}, "broker", "refused", 69,
    ),
    "the store is away": (
        {"servers": (server(role="broker"), server(role="store", error="timed out"))}, "store", "timed out", 69,
    ),
    "no store": ({"servers": (server(role="broker"),)}, "store", "no Redis is known", 0),
    "a wrong setting": ({"settings_error": "unknown setting 'taskora_ttl'"}, "settings", "taskora_ttl", 1),
    "a full store": (
        {"servers": (server(refuses="command not allowed when used memory > 'maxmemory'."),)}, "records", "maxmemory", 1,
    ),
    "a replica": ({"servers": (server(refuses="You can't write against a read only replica."),)}, "records", "read only", 1),
    "no permission": (
        {"servers": (server(refuses="No permissions to access a key", prefix="taskora:"),)}, "records", "No permissions", 1,
    ),
    "no subscription": (
        {"servers": (server(deaf="No permissions to access a channel"),)}, "records", "announcements cannot be heard", 0,
    ),
    "an old Redis": ({"servers": (server(redis_version="6.0.20"),)}, "versions", "6.0.20", 1),
    "another version on a worker": (
        {"workers": (worker(packages={**PACKAGES, "taskora-celery": "0.9"}),)}, "versions", "taskora-celery 0.9 (here 1.0)", 0,
    ),
    "no worker": ({"workers": ()}, "workers", "no worker answered", 0),
    "a worker without this library": ({"workers": (WORKER, WorkerFacts("old@shop"))}, "workers", "old@shop", 1),
    "a slow sweep": ({"sweep_warning": "it is slow. Set unacked_restore_interval=1"}, "recovery", "it is slow", 0),
    "different visibility timeouts": ({"workers": (worker(visibility_timeout=5.0),)}, "recovery", "w1@shop 5 s", 1),
    "a worker whose clock is ahead": ({"workers": (worker(ahead=4.0),)}, "clocks", "worker w1@shop's clock is 4.0 s ahead of", 1),
    "a Redis whose clock is behind": (
        {"servers": (server(ahead=-3.0),)}, "clocks", "this machine's clock is 3.0 s ahead of the broker and store's", 1,
    ),
    "eviction": ({"servers": (server(maxmemory_policy="allkeys-lru", maxmemory=10**9),)}, "memory", "queued messages", 1),
    "eviction of what expires": (
        {"servers": (server(maxmemory_policy="volatile-ttl", maxmemory=10**9),)}, "memory", "job records and fences", 1,
    ),
    "eviction without a limit": ({"servers": (server(maxmemory_policy="allkeys-lru"),)}, "memory", "no maxmemory is set", 0),
    "a long task that is acknowledged early": (
        {"tasks": (TaskFacts("shop.render", 3_600.0, early=True),)}, "tasks", "shop.render", 1,
    ),
    "modules that cannot be imported": ({"tasks_error": "ModuleNotFoundError: jobs"}, "tasks", "ModuleNotFoundError: jobs", 1),
    "no events": ({"workers": (worker(events=False),)}, "events", "not sent by w1@shop", 0),
    "no events, but a monitor": ({"workers": (worker(events=False),), "monitored": True}, "events", "sees nothing", 1),
    "an old Flower": ({"flower": "1.2.0"}, "flower", "1.2.0", 0),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "check", "text", "code"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_found_and_says_what_to_do(changes: dict[str, Any], check: str, text: str, code: int) -> None:
    """K7, D11: by the check that looks for it, with advice; what only needs to be known does not fail a deployment."""
    found, exits_with = broken(**changes)
    ours = [finding for finding in found if finding.check == check and text in finding.message]
    assert ours, found
    assert all(finding.advice for finding in found)
    assert exits_with == code


def test_a_foreign_worker_on_another_broker_harms_nobody() -> None:
    """K7: only on Redis are the messages of all workers under one timeout."""
    rabbit = (ServerFacts("broker", "amqp://shop"), server(role="store"))
    assert broken(servers=rabbit, workers=(WorkerFacts("old@shop"),), visibility_timeout=None)[1] == 0


def test_where_nobody_can_be_asked_nothing_is_said_of_workers() -> None:
    """K7, G9: SQS has no broadcasts."""
    assert broken(workers=None) == ([], 0)


@pytest.mark.parametrize(("clock", "ahead"), [(100.5, 0.0), (103.0, 2.0), (97.0, -3.0)])
def test_a_clock_is_known_as_well_as_its_answer_was_quick(clock: float, ahead: float) -> None:
    """K7: an answer that took a second proves no difference of a second."""
    stats = {"taskora": {"version": "1.0", "clock": clock, "events": True, "visibility_timeout": 30.0, "packages": PACKAGES}}
    assert worker_facts(Replied("w1@shop", stats, 100.0, 101.0)) == worker(ahead=ahead)


@pytest.mark.parametrize("answer", [{"total": {}}, {"taskora": "?"}, ["stats"], None])
def test_a_worker_that_says_nothing_of_this_library_has_none(answer: Any) -> None:
    """K7: every worker answers to ``stats``, with a part of ours where we are; what is not understood is no part of ours."""
    assert worker_facts(Replied("old@shop", answer, 0.0, 1.0)) == WorkerFacts("old@shop")


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "raise its maxmemory"),
        ("READONLY You can't write against a read only replica.", "the primary's address"),
        ("ACL failure in script: No permissions to access a key", "ACL SETUSER … ~shop:taskora:* &shop:taskora:* +@"),
        ("The user executing the script can't run this command or subcommand", "ACL SETUSER"),
        ("MISCONF Redis is configured to save RDB snapshots", "another Redis"),
    ],
)
def test_each_refusal_has_its_advice(refusal: str, advice: str) -> None:
    """Fault 15, K7: by Redis's own words, with or without their code."""
    (found,), _ = broken(servers=(server(refuses=refusal, prefix="shop:taskora:"),))
    assert refusal in found.message
    assert advice in found.advice
