"""What is to be done later, by instant."""

from __future__ import annotations

from taskora_celery.agenda import DROPPED, Agenda


def taken(agenda: Agenda, now: float) -> list[str]:
    done: list[str] = []
    while callable(action := agenda.take(now)):
        done.append(action())
    return done


def test_what_is_due_is_taken_by_its_instant_and_then_as_it_came() -> None:
    """Runtime: what is not due yet stays, and says when it is."""
    agenda = Agenda()
    for when, name in ((3.0, "c"), (1.0, "a"), (5.0, "later"), (2.0, "b"), (1.0, "a too")):
        agenda.add(when, lambda name=name: name)  # type: ignore[misc]
    assert taken(agenda, 3.0) == ["a", "a too", "b", "c"]
    assert agenda.take(3.0) == 2.0
    assert taken(agenda, 5.0) == ["later"]
    assert (agenda.take(9.0), len(agenda)) == (None, 0)


def test_what_was_dropped_is_not_taken() -> None:
    """Runtime: a job has ended."""
    agenda = Agenda()
    first = agenda.add(1.0, lambda: "first")
    agenda.add(2.0, lambda: "second")
    agenda.drop([first])
    assert taken(agenda, 5.0) == ["second"]
    agenda.drop([first])


def test_what_was_dropped_is_cleared_out() -> None:
    """Runtime: a process that runs a thousand jobs a second, each with a limit of an hour, keeps none of them."""
    agenda = Agenda()
    agenda.add(1e9, lambda: None)
    for n in range(10 * DROPPED):
        agenda.drop([agenda.add(1e6 + n, lambda: None)])
        assert len(agenda) <= DROPPED + 2
