"""What type checkers know of a task and of its handle; at run time the classes here are Celery's own.

Celery is untyped, and ``celery-types`` knows nothing of a context, so the package says itself what callers see.

A class of tasks is ``ContextTask[P, R]``: callers pass ``P`` and get ``R``. A task that was made of a function is a
``FunctionTask``: it has the parameters of the function, the context included, and the shapes below find where that stands. Each
method for callers has one overload per shape, and type checkers drop those whose ``self`` does not fit. Overloads of the decorator
would be shorter, but mypy gives them up for a function with an ``Any`` somewhere in its parameters. For a like reason the
methods are objects: without stubs Celery's base classes are ``Any``, which fits each shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery.app.task import Task
from celery.result import AsyncResult, EagerResult

__all__ = ["P", "R", "R_co", "TypedEagerResult", "TypedResult", "TypedTask"]

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import datetime
    from typing import Concatenate, Generic, Protocol, TypeAlias, overload

    import typing_extensions
    from celery.canvas import Signature
    from typing_extensions import Unpack

    from taskora_celery.context import Context
    from taskora_celery.handle import JobHandle
    from taskora_celery.task import ContextTask

    P = typing_extensions.ParamSpec("P", default=...)
    R = typing_extensions.TypeVar("R", default=Any)
    R_co = typing_extensions.TypeVar("R_co", covariant=True, default=Any)
    # Of methods and shapes: A, B, C are the parameters before the context, Q are those that callers pass.
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    D = TypeVar("D")
    F = ParamSpec("F")
    Q = ParamSpec("Q")
    S = TypeVar("S")
    A_contra = TypeVar("A_contra", contravariant=True)
    B_contra = TypeVar("B_contra", contravariant=True)
    C_contra = TypeVar("C_contra", contravariant=True)
    S_co = TypeVar("S_co", covariant=True)
    G_co = TypeVar("G_co", covariant=True)

    class _Outcome:
        id: str

        @property
        def state(self) -> str:
            """The state's name."""

        @property
        def result(self) -> Any:
            """The result, or the exception; None while there is none."""

        def ready(self) -> bool:
            """Say whether the job has ended."""

        def successful(self) -> bool:
            """Say whether it has ended well."""

        def failed(self) -> bool:
            """Say whether it has failed."""

    class TypedResult(_Outcome, AsyncResult[R_co], Generic[R_co]):  # type: ignore[misc]
        """The types of :class:`~taskora_celery.JobHandle`, as far as its methods are Celery's."""

        def __init__(
            self,
            id: str,  # noqa: A002 - Celery's name
            backend: Any = None,
            task_name: str | None = None,
            app: Any = None,
            parent: Any = None,
        ) -> None: ...

        def get(
            self,
            timeout: float | None = None,
            propagate: bool = True,
            interval: float = 0.5,
            no_ack: bool = True,
            follow_parents: bool = True,
            callback: Callable[[str, Any], object] | None = None,
            on_message: Callable[[dict[str, Any]], object] | None = None,
            on_interval: Callable[[], object] | None = None,
            disable_sync_subtasks: bool = True,
            **options: Any,
        ) -> R_co:
            """Wait for the end of the job; return its result, or raise its exception."""

    class TypedEagerResult(_Outcome, EagerResult[R_co], Generic[R_co]):  # type: ignore[misc]
        """The types of :class:`~taskora_celery.EagerJobHandle`, as far as its methods are Celery's."""

        def get(
            self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True, **options: Any
        ) -> R_co:
            """Return the result, or raise the exception."""

    class _Picklable(Protocol):
        """Everything but a context, whose ``__reduce__`` returns nothing that could be sent."""

        def __reduce__(self) -> str | tuple[Any, ...]: ...

    _Sendable: TypeAlias = _Picklable | None

    class _Arguments(Protocol):
        """Calls any function, but passes no context."""

        def __call__(self, *args: _Sendable, **kwargs: _Sendable) -> object: ...

    class _ArgumentsAndKeyword(Protocol):
        """Calls any function that takes a context by keyword."""

        def __call__(self, *args: _Sendable, ctx: Context, **kwargs: _Sendable) -> object: ...

    class _Of(Protocol[F, G_co]):
        """Belongs to a function: ``_shape`` says what calls it, and how it is called."""

        def _shape(self, caller: Callable[F, object], /) -> Callable[F, G_co]: ...

    class _Plain(Protocol[Q, S_co]):
        def _shape(self, caller: _Arguments, /) -> Callable[Q, S_co]: ...

    class _First(Protocol[Q, S_co]):
        def _shape(self, caller: Any, /) -> Callable[Concatenate[Context, Q], S_co]: ...

    class _Second(Protocol[A_contra, Q, S_co]):
        def _shape(self, caller: Any, /) -> Callable[Concatenate[A_contra, Context, Q], S_co]: ...

    class _Third(Protocol[A_contra, B_contra, Q, S_co]):
        def _shape(self, caller: Any, /) -> Callable[Concatenate[A_contra, B_contra, Context, Q], S_co]: ...

    class _Fourth(Protocol[A_contra, B_contra, C_contra, Q, S_co]):
        def _shape(self, caller: Any, /) -> Callable[Concatenate[A_contra, B_contra, C_contra, Context, Q], S_co]: ...

    class _Keyword(Protocol[S_co]):
        def _shape(self, caller: _ArgumentsAndKeyword, /) -> Callable[..., S_co]: ...

    class Call(_Of[F, G_co], Protocol[F, G_co]):
        """Calls the function here and now, with a context of its own or with the one that is passed."""

        @overload
        def __call__(self: _Plain[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> S: ...
        @overload
        def __call__(self: _First[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> S: ...
        @overload
        def __call__(self: _Second[A, Q, S], a: A, /, *args: Q.args, **kwargs: Q.kwargs) -> S: ...
        @overload
        def __call__(self: _Third[A, B, Q, S], a: A, b: B, /, *args: Q.args, **kwargs: Q.kwargs) -> S: ...
        @overload
        def __call__(self: _Fourth[A, B, C, Q, S], a: A, b: B, c: C, /, *args: Q.args, **kwargs: Q.kwargs) -> S: ...
        @overload
        def __call__(self: _Keyword[S], *args: Any, **kwargs: Any) -> S: ...
        @overload
        def __call__(self, *args: F.args, **kwargs: F.kwargs) -> G_co: ...

    class Delay(_Of[F, G_co], Protocol[F, G_co]):
        """Sends a job."""

        @overload
        def __call__(self: _Plain[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> JobHandle[S]: ...
        @overload
        def __call__(self: _First[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> JobHandle[S]: ...
        @overload
        def __call__(self: _Second[A, Q, S], a: A, /, *args: Q.args, **kwargs: Q.kwargs) -> JobHandle[S]: ...
        @overload
        def __call__(self: _Third[A, B, Q, S], a: A, b: B, /, *args: Q.args, **kwargs: Q.kwargs) -> JobHandle[S]: ...
        @overload
        def __call__(self: _Fourth[A, B, C, Q, S], a: A, b: B, c: C, /, *args: Q.args, **kwargs: Q.kwargs) -> JobHandle[S]: ...
        @overload
        def __call__(self: _Keyword[S], *args: Any, **kwargs: Any) -> JobHandle[S]: ...

    class Immutable(_Of[F, G_co], Protocol[F, G_co]):
        """Makes a signature that takes no more arguments."""

        @overload
        def __call__(self: _Plain[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> Signature[S]: ...
        @overload
        def __call__(self: _First[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> Signature[S]: ...
        @overload
        def __call__(self: _Second[A, Q, S], a: A, /, *args: Q.args, **kwargs: Q.kwargs) -> Signature[S]: ...
        @overload
        def __call__(self: _Third[A, B, Q, S], a: A, b: B, /, *args: Q.args, **kwargs: Q.kwargs) -> Signature[S]: ...
        @overload
        def __call__(self: _Fourth[A, B, C, Q, S], a: A, b: B, c: C, /, *args: Q.args, **kwargs: Q.kwargs) -> Signature[S]: ...
        @overload
        def __call__(self: _Keyword[S], *args: Any, **kwargs: Any) -> Signature[S]: ...

    class SendOptions(typing_extensions.TypedDict, total=False):
        """What ``apply_async`` takes besides the arguments of the handler; Celery's documentation says what each does."""

        task_id: str | None
        countdown: float | None
        eta: datetime | None
        expires: float | datetime | None
        time_limit: float | None
        soft_time_limit: float | None
        ignore_result: bool
        link: Any
        link_error: Any
        add_to_parent: bool
        shadow: str | None
        headers: Mapping[str, Any] | None
        stamped_headers: Sequence[str]
        argsrepr: str
        kwargsrepr: str
        queue: Any
        exchange: Any
        routing_key: str | None
        priority: int | None
        serializer: str | None
        compression: str | None
        delivery_mode: int | str | None
        retry: bool
        retry_policy: Mapping[str, Any] | None
        producer: Any
        publisher: Any
        connection: Any
        router: Any
        reply_to: str | None
        root_id: str | None
        parent_id: str | None
        group_id: str | None
        group_index: int | None
        chord: Any
        chain: Any
        MessageGroupId: str
        MessageDeduplicationId: str

    _Unchecked: TypeAlias = list[Any] | tuple[Any, Any, Any, Any, Unpack[tuple[Any, ...]]]

    class ApplyAsync(_Of[F, G_co], Protocol[F, G_co]):
        """Sends a job. Tuples of up to three arguments are checked one by one; longer ones, lists and keywords are not."""

        @overload
        def __call__(
            self: _Plain[[], S], args: tuple[()] | None = None, kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Plain[[A], S], args: tuple[A], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Plain[[A, B], S], args: tuple[A, B], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Plain[[A, B, C], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _First[[], S], args: tuple[()] | None = None, kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _First[[A], S], args: tuple[A], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _First[[A, B], S], args: tuple[A, B], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _First[[A, B, C], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Second[A, [], S], args: tuple[A], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Second[A, [B], S], args: tuple[A, B], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Second[A, [B, C], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Third[A, B, [], S], args: tuple[A, B], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Third[A, B, [C], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Fourth[A, B, C, [], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(
            self: _Keyword[S], args: Sequence[Any] | None = None, kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def __call__(self, args: _Unchecked, kwargs: None = None, **options: Unpack[SendOptions]) -> JobHandle[G_co]: ...
        @overload
        def __call__(
            self, args: Sequence[Any] | None, kwargs: Mapping[str, Any], **options: Unpack[SendOptions]
        ) -> JobHandle[G_co]: ...
        @overload
        def __call__(
            self, args: Sequence[Any] | None = None, *, kwargs: Mapping[str, Any], **options: Unpack[SendOptions]
        ) -> JobHandle[G_co]: ...

    class _Runs(Protocol[S_co]):
        def run(self, *args: Any, **kwargs: Any) -> S_co: ...

    class TypedTask(Task[P, R], Generic[P, R]):  # type: ignore[misc]
        """The types of :class:`~taskora_celery.ContextTask`: a class of tasks says itself what callers pass and get."""

        def run(self, *args: Any, **kwargs: Any) -> R | Coroutine[Any, Any, R]:
            """Do the work; a class of tasks defines it, and takes the context here."""

        def __call__(self: _Runs[S], *args: Any, **kwargs: Any) -> S:
            """Do the work here and now, as a coroutine where ``run`` is one."""

        def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
            """Send a job."""

        def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
            """Make a signature; what it lacks comes from its caller or from the result before it in a chain."""

        def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
            """Make a signature that takes no more arguments."""

        @overload
        def apply_async(
            self: TypedTask[[], S], args: tuple[()] | None = None, kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(
            self: TypedTask[[A], S], args: tuple[A], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(
            self: TypedTask[[A, B], S], args: tuple[A, B], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(
            self: TypedTask[[A, B, C], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(self, args: _Unchecked, kwargs: None = None, **options: Unpack[SendOptions]) -> JobHandle[R]: ...
        @overload
        def apply_async(
            self, args: Sequence[Any] | None, kwargs: Mapping[str, Any], **options: Unpack[SendOptions]
        ) -> JobHandle[R]: ...
        @overload
        def apply_async(
            self, args: Sequence[Any] | None = None, *, kwargs: Mapping[str, Any], **options: Unpack[SendOptions]
        ) -> JobHandle[R]: ...
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            """Send a job, with options."""

    class FunctionTask(ContextTask[..., S], Generic[Q, S, D]):
        """What the decorator makes of a function: ``Q`` are its parameters, ``D`` is what a direct call of the task returns."""

        run: Callable[Q, D]  # type: ignore[assignment]
        __call__: Call[Q, D]
        delay: Delay[Q, S]
        si: Immutable[Q, S]
        apply_async: ApplyAsync[Q, S]

else:
    P, R, R_co = ParamSpec("P"), TypeVar("R"), TypeVar("R_co", covariant=True)
    TypedTask, TypedResult, TypedEagerResult = Task, AsyncResult, EagerResult
