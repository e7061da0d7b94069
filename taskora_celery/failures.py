"""Failed jobs by what went wrong: grouped by task, class of exception, and message less what differs from job to job."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from taskora_celery.listing import JobsReader
from taskora_celery.reading import JobBrief
from taskora_celery.records import Outcome
from taskora_celery.texts import cut_line

__all__ = ["JOBS_LOOKED_AT", "PATTERN_CHARS", "FailureGroup", "Failures", "failures_in", "grouped", "literal_of", "pattern_of"]

#: So many jobs are looked at, those whose state changed last: as many as the index has by default.
JOBS_LOOKED_AT = 10_000
#: So many groups are shown, those with the most jobs.
GROUPS_SHOWN = 100
#: A pattern is cut to so many characters.
PATTERN_CHARS = 200
#: Of a message so many characters are looked at.
_MESSAGE_CHARS = 500
_LITERAL_CHARS = 3

#: What differs from job to job; where two begin at one place, the first in this order is taken.
_VARIABLES = (
    ("url", r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"`<>]+"),
    ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("uuid", r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"),
    ("time", r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b"),
    ("time", r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b"),
    ("address", r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"),
    ("address", r"(?<![\w:])(?=[0-9a-fA-F:]*\d)(?:(?:[0-9a-fA-F]{1,4}:){7}|(?:[0-9a-fA-F]{1,4}:)*:)[0-9a-fA-F:]{0,39}(?![\w:])"),
    ("hex", r"\b0[xX][0-9a-fA-F]+\b|\b(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\b"),
    ("text", r"(?<!\w)'[^'\n]*'(?!\w)|\"[^\"\n]*\"|`[^`\n]*`|“[^”\n]*”|«[^»\n]*»"),
    ("path", r"(?<![\w/.~])(?:~|\.{1,2})?(?:/[\w.@%+~-]+)+/?|\b[a-zA-Z]:\\[^\s'\"`<>]*"),
    ("number", r"\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?"),
)
_VARIABLE = re.compile("|".join(f"(?P<{name}{place}>{pattern})" for place, (name, pattern) in enumerate(_VARIABLES)))
_PLACEHOLDER = re.compile("<(?:" + "|".join(dict.fromkeys(name for name, _ in _VARIABLES)) + ')>|[…"]')


class FailureGroup(msgspec.Struct, frozen=True):
    """Failed jobs of one task that went wrong in one way. Instants are in milliseconds since the epoch."""

    task: str
    #: The class of the exception, empty where there was none.
    error: str
    #: The message, with placeholders for what differs from job to job; empty where there was none.
    pattern: str
    count: int
    first_ms: int
    last_ms: int
    #: The job that failed last, and its message as it is.
    job_id: str
    message: str


class Failures(msgspec.Struct, frozen=True):
    """What has failed among the jobs that were looked at."""

    #: Those with the most jobs first; of two with as many, the one that happened last.
    groups: tuple[FailureGroup, ...]
    #: So many jobs have failed, and so many groups, with so many jobs, are not shown.
    failed: int
    groups_left: int
    failed_left: int
    #: So many jobs were looked at, and so many more are listed and were not looked at.
    looked: int
    left: int


@lru_cache(maxsize=JOBS_LOOKED_AT)  # the same failed jobs are looked at again and again
def pattern_of(message: str) -> str:
    """Return a message with placeholders (``<number>``, ``<path>``, …) for what differs from job to job.

    It is one line of at most :data:`PATTERN_CHARS` characters, without digits, and its own pattern.
    """
    line, replaced = "", cut_line(message, _MESSAGE_CHARS)
    # Where one thing was replaced or cut, another may come to light: a quote, say, whose pair was in the middle of a path.
    while replaced != line:
        line, replaced = replaced, cut_line(_VARIABLE.sub(_placeholder, replaced), PATTERN_CHARS)
    return line


def _placeholder(found: re.Match[str]) -> str:
    return f"<{str(found.lastgroup).rstrip('0123456789')}>"


def literal_of(group: FailureGroup) -> str:
    """Return the longest text that all messages of a group have in common, to find its jobs by; empty where there is none.

    It has no quotes, so that it can be put into them. Less than three characters would find half of all jobs, and are none.
    """
    parts = (part.strip(" .,:;") for part in _PLACEHOLDER.split(group.pattern))
    # In a pattern lines are joined and control characters written out; in the message they may not be.
    longest = max((part for part in parts if part in group.message), key=len, default="")
    return longest if len(longest) >= _LITERAL_CHARS else ""


def grouped(jobs: Iterable[JobBrief]) -> list[FailureGroup]:
    """Group failed jobs; those with the most jobs first, and of two with as many the one that happened last."""
    found: dict[tuple[str, str, str], list[JobBrief]] = {}
    for job in jobs:
        found.setdefault((job.name, job.error or "", pattern_of(job.reason or "")), []).append(job)
    groups = [_group(*key, members) for key, members in found.items()]
    return sorted(groups, key=lambda group: (-group.count, -group.last_ms, group.task, group.error, group.pattern))


def _group(task: str, error: str, pattern: str, jobs: list[JobBrief]) -> FailureGroup:
    ends = [job.ended_ms or job.alive_ms for job in jobs]
    last_ms, last = max(zip(ends, jobs, strict=True), key=lambda end: end[0])
    return FailureGroup(task, error, pattern, len(jobs), min(ends), last_ms, last.id, last.reason or "")


def failures_in(
    reader: JobsReader, *, since_ms: int = 0, most: int = JOBS_LOOKED_AT, shown: int = GROUPS_SHOWN
) -> Failures:  # fmt: skip
    """Look what has failed among the ``most`` jobs whose state changed last; return the ``shown`` largest groups.

    ``since_ms`` leaves out jobs whose state has not changed since, in milliseconds since the epoch. One round trip for each 500
    jobs; safe to call from several threads.

    :raises StoreUnavailableError: the job records cannot be reached.
    """
    glance = reader.glance(Outcome.FAILURE, most, since_ms=since_ms)
    groups = grouped(glance.jobs)
    rest = groups[shown:]
    return Failures(
        tuple(groups[:shown]), len(glance.jobs), len(rest), sum(group.count for group in rest), glance.looked, glance.left
    )  # fmt: skip
