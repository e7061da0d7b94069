"""The Redis layout: every key that this library writes.

Each job has three keys. They share the hash tag ``{id}``, so that one script may touch them all on Redis Cluster, and every
write renews their TTL (``taskora_record_ttl``). Nobody deletes them: they expire.

=================  ====  ==============================================================================================
key                type  content
=================  ====  ==============================================================================================
``{id}:job``       hash  the record, see below; written by ``begin``, ``report``, ``lose`` and ``cancel.lua``
``{id}:journal``   list  batches of entries, oldest first: ``"<first seq> <entries> <log entries> "`` and a packed batch;
                         ``report``, ``lose`` and ``cancel.lua`` append, and remove whole batches from the head while enough
                         log entries remain
``{id}:attempts``  list  packed :class:`~taskora_celery.records.AttemptRecord`, one for each attempt that ended in a retry
                         and each delivery that was lost; the newest 100
``{id}:changed``   -     a pub/sub channel: a message after each change of the job, its text is of no meaning
``{index}:recent`` zset  ids of jobs by their last change of state (ms), the newest ``taskora_index_limit``
``{index}:going``  zset  ids of jobs that have not ended, by the same; both are written by ``note.lua``, a moment behind the
                         records, with the TTL of records; who finds a job there whose record has expired removes it
``{index}:counts`` hash  what happened to jobs, as counts by name (see ``tally.py``), which only grow; ``note.lua`` adds; at most
                         10 000 names, and a TTL of a week at least
``{trial}:doctor`` -     written and removed by ``trial.lua``, which only looks whether that can be done; a TTL of a second
``announcements``  -     a pub/sub channel of all processes that run jobs: packed requests to cancel, and shutdowns
=================  ====  ==============================================================================================

Two keys are elsewhere, with what they are about. In the broker's database, under its own prefix, ``taskora:claim:<tag>`` is a
text: the token of the delivery of a message that counts. Whoever receives a message again writes it, its acknowledgement deletes
it, and its TTL is a day (``lease/moving.py``). In the result backend's, ``swap.lua`` writes PROGRESS under the key that Celery
has for the result, with Celery's TTL (``swapping.py``).

The record's fields have one letter, since a job's hash stays a compact listpack only while it is small, and most jobs are:

=====  =====================================================  =====  ====================================================
field  meaning                                                field  meaning
=====  =====================================================  =====  ====================================================
s      state                                                  p      progress: packed (value, instant, mark)
n      task name                                              k      checkpoint, packed
a      attempt                                                r      reason of the last outcome
d      delivery of this attempt                               z      class of the exception of the last outcome
f      fence: grows with each delivery                        q      entries that the journal has had: the next seq
g      fence of the attempt that ended in a retry just        i      batches removed from the journal's head
       before: its last log entries are still welcome         m      log entries in the journal
w      worker                                                 t      log entries that the job wrote
c      created, ms                                            u      entries accepted from fence f (a repeat is known by it)
b      start of this delivery, ms                             v      the same for fence g
h      last sign of life, ms                                  e      end, ms
l      delivery tag of the message                            o      token of this delivery
j      the first request to cancel, packed
T      id of the trace of the last delivery that had one
x      deliveries that were lost or stalled                   y      reports of superseded executions that were refused
=====  =====================================================  =====  ====================================================
"""

from __future__ import annotations

__all__ = ["BRIEF_FIELDS", "CHECKPOINT", "LISTED_FIELDS", "RECORD_FIELDS", "JobKeys"]

#: The order in which ``read.lua`` returns the record.
RECORD_FIELDS = (
    "s",
    "n",
    "a",
    "d",
    "f",
    "w",
    "c",
    "b",
    "h",
    "e",
    "p",
    "k",
    "r",
    "z",
    "q",
    "i",
    "m",
    "t",
    "l",
    "o",
    "x",
    "y",
    "j",
    "T",
)

#: A checkpoint may be a megabyte, and who lists jobs asks only whether there is one.
CHECKPOINT = "k"
LISTED_FIELDS = tuple(name for name in RECORD_FIELDS if name != CHECKPOINT)

#: How a job stands, whatever it has to say: a few hundred bytes at most, since a reason is cut when it is written.
BRIEF_FIELDS = ("s", "n", "h", "w", "e", "r", "z")


class JobKeys:
    """Builds the names of one store's keys."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def of(self, job_id: str) -> tuple[str, str, str]:
        """Return the record's, the journal's and the attempts' key."""
        base = self._base(job_id)
        return base + ":job", base + ":journal", base + ":attempts"

    def with_channel(self, job_id: str) -> tuple[str, str, str, str]:
        """Return the three keys of :meth:`of`, and the :meth:`channel`: two ends of a job need all of them."""
        base = self._base(job_id)
        return base + ":job", base + ":journal", base + ":attempts", base + ":changed"

    def channel(self, job_id: str) -> str:
        """Return the channel on which changes of the job are announced."""
        return self._base(job_id) + ":changed"

    @property
    def index(self) -> tuple[str, str]:
        """The keys of the index: all jobs, and those that have not ended."""
        return f"{self.prefix}{{index}}:recent", f"{self.prefix}{{index}}:going"

    @property
    def counts(self) -> str:
        """The key of the counts."""
        return f"{self.prefix}{{index}}:counts"

    @property
    def trial(self) -> str:
        """The key that is written to see whether keys can be."""
        return f"{self.prefix}{{trial}}:doctor"

    @property
    def announcements(self) -> str:
        """The channel of all announcements to processes that run jobs."""
        return f"{self.prefix}announcements"

    def _base(self, job_id: str) -> str:
        # An id is the user's: a brace in it would end the hash tag early, or empty it.
        if "{" in job_id or "}" in job_id or "%" in job_id:
            job_id = job_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        # An empty hash tag is none: the keys of a job without an id would lie in several slots. A lone % is no other id's.
        return f"{self.prefix}{{{job_id or '%'}}}"
