"""The doctor's facts from a real Redis, and its command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from taskora_celery import ContextTask
from taskora_celery.cli.doctor import command
from taskora_celery.doctor.gather import gather
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.server import server_report
from tests.support.eager_apps import tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery.store.redis import RedisStore
    from tests.support.redis_server import RedisServer

#: Nobody listens there.
NOWHERE = "redis://localhost:1/0"


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


def app_on(url: str, **conf: Any) -> Celery:
    app = Celery("doctored", broker=url, backend=url, task_cls=ContextTask, set_as_current=False)
    app.conf.update(conf)
    return app


def run(app: Celery, *arguments: str) -> Result:
    """Run the command as Celery's own does."""
    return CliRunner().invoke(command, ["--timeout", "0.2", *arguments], obj=CLIContext(app=app, no_color=True, workdir=None))


def lines(result: Result) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in result.stdout.splitlines():
        finding = json.loads(line)
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_a_server_says_what_it_is(any_redis: RedisStore) -> None:
    """K7: its version, its clock and its policy, whatever kind of Redis it is."""
    report = server_report(any_redis.endpoint, 5.0)
    assert report.version is not None
    assert report.version.split(".")[0].isdigit()
    assert report.ahead is not None
    assert abs(report.ahead) < 0.5
    assert (report.maxmemory_policy, report.maxmemory) == ("noeviction", 0)


def test_a_server_that_is_away_is_said_to_be() -> None:
    """K7: with what the driver says of it."""
    with pytest.raises(StoreUnavailableError, match="localhost:1"):
        server_report(Endpoint(NOWHERE), 0.5)


@pytest.fixture
def limited_user(redis_server: RedisServer, redis_url: str) -> Iterator[str]:
    """The URL of a user who may not look at the server; a test may take more away."""
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-info")
        yield redis_url.replace("redis://", "redis://limited:secret@")
        client.execute_command("ACL", "DELUSER", "limited")


def test_a_server_that_may_not_be_asked_is_no_failure(limited_user: str) -> None:
    """K7: managed Redis hides things; what is not known is not said."""
    report = server_report(Endpoint(limited_user), 5.0)
    assert (report.version, report.maxmemory_policy) == (None, None)
    result = run(app_on(limited_user))
    assert "memory" not in result.output
    assert result.exit_code == 0


def test_a_user_who_may_not_do_what_kombu_does_is_wrong(redis_server: RedisServer, limited_user: str) -> None:
    """K7: no worker would get a message with it either."""
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "-@write")
    result = run(app_on(limited_user), "-j")
    assert result.exit_code == 1
    assert "cannot be asked" in lines(result)["workers"][0]["message"]


def test_another_user_for_job_records_is_looked_at_too(limited_user: str, redis_url: str, redis_server: RedisServer) -> None:
    """Fault 15, K7: on the broker's own server, with a password that is wrong, or without the right to write."""
    found = lines(run(app_on(redis_url, taskora_redis_url=limited_user.replace("secret", "wr0ng")), "-j"))
    assert (found["broker"][0]["level"], found["store"][0]["level"]) == ("ok", "wrong")
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "resetkeys", "~shop:*", "resetchannels")
    result = run(app_on(redis_url, taskora_redis_url=limited_user), "-j")
    found = lines(result)
    assert [finding["level"] for finding in found["records"]] == ["wrong", "warning"]
    assert result.exit_code == 1
    assert "wr0ng" not in result.output


def test_a_sound_set_up_exits_with_0(redis_url: str) -> None:
    """K7: with a line for each thing that was looked at, on stdout."""
    result = run(app_on(redis_url, broker_transport_options={"visibility_timeout": 3600}))
    assert result.exit_code == 0, result.output
    assert "ok       broker and store" in result.stdout
    assert "WRONG" not in result.stdout


def test_each_line_is_json_where_that_is_wanted(redis_url: str) -> None:
    """K3, K7: stable keys, one object per line."""
    found = lines(run(app_on(redis_url), "-j"))
    assert {key for findings in found.values() for finding in findings for key in finding} == {
        "check", "level", "message", "advice",
    }  # fmt: skip
    assert found["broker and store"][0]["level"] == "ok"


@pytest.mark.parametrize("away", ["broker", "store"])
def test_an_unreachable_server_exits_with_69(redis_url: str, away: str) -> None:
    """K3, K7: and the password of its URL is not shown."""
    nowhere = NOWHERE.replace("redis://", "redis://:hunter2@")
    app = app_on(redis_url, **({"broker_url": nowhere} if away == "broker" else {"taskora_redis_url": nowhere}))
    result = run(app, "-j")
    assert result.exit_code == 69, result.output
    assert [finding["level"] for finding in lines(result)[away]] == ["wrong"]
    assert "hunter2" not in result.output


def test_a_broker_that_is_no_redis_is_looked_at_too() -> None:
    """K7, L2: and that no records are kept is said."""
    app = Celery("doctored", broker="memory://", backend="cache+memory://", task_cls=ContextTask, set_as_current=False)
    found = lines(run(app, "-j"))
    assert found["broker"][0]["level"] == "ok"
    assert "taskora_redis_url" in found["store"][0]["advice"]
    assert "recovery" not in found
    app.conf.broker_url = "amqp://localhost:1"
    assert run(app).exit_code == 69


def test_the_broker_s_settings_are_explained(redis_url: str) -> None:
    """K7, D11: the effective timeout and sweep, and what makes recovery slower than they suggest."""
    options = {"visibility_timeout": 30}
    found = lines(run(app_on(redis_url, broker_transport_options=options), "-j"))["recovery"]
    assert "visibility timeout 30 s" in found[0]["message"]
    assert ("every 100 s" in found[1]["message"], found[1]["level"]) == (True, "warning")
    assert found[1]["advice"].startswith("Set unacked_restore_interval=1")
    options = {"visibility_timeout": 30, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    found = lines(run(app_on(redis_url, broker_transport_options=options), "-j"))["recovery"]
    assert [finding["level"] for finding in found] == ["ok"]


def test_a_redis_that_evicts_is_wrong(redis_server: RedisServer, redis_url: str) -> None:
    """K7: what is queued would be thrown away when memory runs out."""
    with redis_server.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            result = run(app_on(redis_url), "-j")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")
    assert result.exit_code == 1
    assert lines(result)["memory"][0]["advice"] == "set maxmemory-policy noeviction"
    assert lines(run(app_on(redis_url), "-j"))["memory"][0]["level"] == "ok"


def test_a_long_task_that_is_acknowledged_early_is_wrong(redis_url: str) -> None:
    """K7: with limits from the task or the app; the app's own tasks, in whatever module they are."""
    app = app_on(redis_url, task_time_limit=3_600)

    def handler() -> None:
        """Do nothing."""

    app.task(name="a.early")(handler)
    app.task(name="late", acks_late=True)(handler)
    app.task(name="short", time_limit=10)(handler)
    result = run(app, "-j")
    assert result.exit_code == 1
    (found,) = lines(result)["tasks"]
    assert "a.early" in found["message"]
    assert "late," not in found["message"]
    for task in app.tasks.values():
        task.acks_late = True
    assert run(app).exit_code == 0


def test_wrong_settings_are_told_and_not_raised(redis_url: str) -> None:
    """K7, L4: the doctor is who you call when nothing starts."""
    result = run(app_on(redis_url, taskora_flush_intervall=1), "-j")
    assert result.exit_code == 1
    assert "taskora_flush_interval" in lines(result)["settings"][0]["message"]
    result = run(app_on(redis_url, broker_transport_options={"visibility_timeout": "long"}), "-j")
    assert "visibility_timeout" in lines(result)["settings"][0]["message"]
    app = app_on(redis_url, broker_transport_options={"visibility_timeout": 30}, taskora_lease_interval=60)
    assert "taskora_lease_interval=60 is wrong" in lines(run(app, "-j"))["settings"][0]["message"]


def test_tasks_that_cannot_be_imported_are_told_and_not_raised(redis_url: str) -> None:
    """K7: the doctor is who you call when nothing starts."""
    result = run(app_on(redis_url, imports=["no_such_module"]), "-j")
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    (finding, *_) = lines(result)["tasks"]
    assert (finding["level"], "No module named 'no_such_module'" in finding["message"]) == ("wrong", True)
    assert lines(result)["broker and store"][0]["level"] == "ok"


def test_a_broker_of_no_known_kind_is_told_and_not_raised(redis_url: str) -> None:
    """K7: so is one whose driver is not installed; the password is not shown."""
    result = run(app_on(redis_url, broker_url="nosuch://user:hunter2@shop:1/0"), "-j")
    assert result.exit_code == 69, result.output
    (finding,) = lines(result)["broker"]
    assert (finding["level"], "No such transport: nosuch" in finding["message"]) == ("wrong", True)
    assert "hunter2" not in result.output


def test_who_listens_to_events_is_seen(redis_url: str) -> None:
    """K7: Flower is known by its queue, whichever machine it runs on."""
    app = app_on(redis_url)
    assert not gather(app, 0.1).monitored
    with app.connection_for_read() as connection:
        handlers = {"*": lambda event: None}
        with app.events.Receiver(connection, handlers=handlers, routing_key="worker.#").consumer_context():
            assert not gather(app, 0.1).monitored, "so does every worker, to hear of the others"
        with app.events.Receiver(connection, handlers=handlers).consumer_context():
            assert gather(app, 0.1).monitored


def test_the_client_leaves_nothing_behind(redis_url: str, redis_client: redis.Redis) -> None:
    """K7, L3: looking changes nothing but kombu's own bindings."""
    run(app_on(redis_url))
    assert [key for key in redis_client.keys("*") if not key.startswith(b"_kombu.")] == []
