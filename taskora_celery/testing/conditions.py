"""What is to happen to a job during a run, and when: the options of a runner, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

from taskora_celery.clock import seconds
from taskora_celery.errors import TaskoraError

__all__ = ["At", "Conditions", "Moment", "NotReachedError"]

#: When something happens: an int is the number of a report of the handler, a float or a timedelta virtual seconds.
At = int | float | timedelta


class NotReachedError(TaskoraError, AssertionError):
    """Something was to happen during the run, and the job had ended before: the test would have shown nothing."""

    def __init__(self, option: str, moment: str, steps: int, elapsed: float) -> None:
        super().__init__(option, moment, steps, elapsed)
        self.option = option
        self.moment = moment
        self.steps = steps
        self.elapsed = elapsed

    def __str__(self) -> str:
        return (
            f"{self.option} did not come: it was to be {self.moment}, and the job ended after {self.steps} reports and "
            f"{self.elapsed:g} virtual seconds; an int counts reports, a float is in seconds while a handler runs"
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """The ``step``-th report of the handler, counted over all attempts, or ``after`` virtual seconds from the run's start."""

    step: int | None
    after: float | None

    @classmethod
    def of(cls, name: str, value: At, *, first: int = 1) -> Moment:
        """Return the moment that an option names.

        :raises TypeError: the value is no int, float or timedelta.
        :raises ValueError: it is negative, or a step before ``first``.
        """
        if isinstance(value, int):  # True is the first step
            if value < first:
                raise ValueError(f"{name}={value!r}: the first report is 1; a float is in seconds")
            return cls(int(value), None)
        return cls(None, seconds(value, name))

    def __str__(self) -> str:
        return f"at report {self.step}" if self.after is None else f"after {self.after:g} s"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What happens to a job. Each ``…_at`` is a number of reports (int) or virtual seconds (float, ``timedelta``); None: never.

    ``cancel_at`` may be 0: before the job begins. ``deliver_twice=True`` is at the first report. ``store_down`` is True, or the
    first and the last report for which the store does not answer. ``max_deliveries`` bounds a job that would go on for ever.
    """

    cancel_at: At | None = None
    cancel_reason: str | None = None
    #: Seconds until a cancelled handler is interrupted; None: as its task says.
    cancel_grace: float | timedelta | None = None
    timeout_at: At | None = None
    shutdown_at: At | None = None
    lease_lost_at: At | None = None
    deliver_twice: bool | At = False
    store_down: bool | tuple[int, int] = False
    max_deliveries: int = 100

    def moments(self) -> dict[str, Moment]:
        """Return when what happens, by the option's name.

        :raises TypeError: a value is of the wrong type.
        :raises ValueError: a value is out of range.
        """
        found = {}
        for name in ("cancel_at", "timeout_at", "shutdown_at", "lease_lost_at", "deliver_twice"):
            value = getattr(self, name)
            if value is not None and value is not False:
                found[name] = Moment.of(name, value, first=0 if name == "cancel_at" else 1)
        return found

    def store_is_down(self, step: int) -> bool:
        """Say whether the store does not answer when so many reports were made."""
        if isinstance(self.store_down, bool):
            return self.store_down
        first, last = self.store_down
        return first <= step <= last

    def with_options(self, options: Mapping[str, Any]) -> Conditions:
        """Return these conditions with other options, checked.

        :raises TypeError: there is no such option, or a value is of the wrong type.
        :raises ValueError: a value is out of range.
        """
        for name in options.keys() - OPTIONS:
            raise TypeError(f"{name}= is no option of a run: there are {', '.join(sorted(OPTIONS))}")
        return replace(self, **options).check()

    def check(self) -> Conditions:
        """Return itself.

        :raises TypeError: a value is of the wrong type.
        :raises ValueError: a value is out of range.
        """
        self.moments()
        if self.cancel_reason is not None and not isinstance(self.cancel_reason, str):
            raise TypeError(f"cancel_reason={self.cancel_reason!r} is not a text")
        if self.cancel_grace is not None:
            seconds(self.cancel_grace, "cancel_grace")
        if not isinstance(self.store_down, bool):
            _check_outage(self.store_down)
        if not isinstance(self.max_deliveries, int):
            raise TypeError(f"max_deliveries={self.max_deliveries!r} is no whole number")
        if self.max_deliveries < 1:
            raise ValueError(f"max_deliveries={self.max_deliveries!r}: a job is delivered at least once")
        return self

    def check_run(self) -> None:
        """Look at what one run has of them: a runner may hold some options for others that come later.

        :raises ValueError: an option says how to cancel, and nobody cancels.
        """
        if "cancel_at" in self.moments():
            return
        for name in ("cancel_reason", "cancel_grace"):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(f"{name}={value!r}: nobody cancels the job; say when with cancel_at, or leave it out")


def _check_outage(outage: object) -> None:
    wanted = f"store_down={outage!r}: give the first and the last report of the outage, or True"
    if not isinstance(outage, tuple | list) or [isinstance(step, int) for step in outage] != [True, True]:
        raise TypeError(wanted)
    if not 0 <= outage[0] <= outage[1]:
        raise ValueError(wanted)


#: The names of all options.
OPTIONS = frozenset(field.name for field in fields(Conditions))
