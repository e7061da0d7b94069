"""What type checkers know of tasks and of their handles; at run time the classes here add nothing to Celery's.

Celery is untyped, and ``celery-types`` knows nothing of a context, so the package says itself what callers see.

A class of tasks is ``ContextTask[P, R]``: callers pass ``P`` and get ``R``. A task that was made of a function is a
``FunctionTask``, whose methods find out where the function takes the context: see ``shapes.py``.
"""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery.app.task import Task
from celery.result import AsyncResult, EagerResult

__all__ = ["P", "R", "R_co", "TypedEagerResult", "TypedResult", "TypedTask"]

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Generic, Protocol, overload

    import typing_extensions
    from celery.canvas import Signature
    from typing_extensions import Self, Unpack

    from taskora_celery.eager import EagerJobHandle
    from taskora_celery.handle import JobHandle
    from taskora_celery.shapes import ApplyAsync, Call, Calls, Delay, Immutable, SendOptions, Unchecked
    from taskora_celery.task import ContextTask

    P = typing_extensions.ParamSpec("P", default=...)
    R = typing_extensions.TypeVar("R", default=Any)
    R_co = typing_extensions.TypeVar("R_co", covariant=True, default=Any)
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    D = TypeVar("D")
    Q = ParamSpec("Q")
    S = TypeVar("S")
    S_co = TypeVar("S_co", covariant=True)

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

    class TypedSignature(Signature[R_co], Generic[R_co]):  # type: ignore[misc]
        """A signature whose job returns ``R_co``; only type checkers know it, at run time it is Celery's."""

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> JobHandle[R_co]:
            """Send the job, with more arguments in front of those of the signature."""

        def delay(self, *args: Any, **kwargs: Any) -> JobHandle[R_co]:
            """Send the job."""

        def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerJobHandle[R_co]:
            """Run the job here and now."""

        def set(self, immutable: bool | None = None, **options: Any) -> Self:
            """Set options, and return the signature."""

        def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> Self:
            """Return a copy, with more arguments and options."""

        def __or__(self, other: Any) -> TypedSignature[Any]: ...

        def __ror__(self, other: Any) -> TypedSignature[Any]: ...

    class _Runs(Protocol[S_co]):
        def run(self, *args: Any, **kwargs: Any) -> S_co: ...

    class TypedTask(Task[..., Any], Generic[P, R]):  # type: ignore[misc]
        """The types of :class:`~taskora_celery.ContextTask`: a class of tasks says itself what callers pass and get."""

        def _shape(self, caller: Any, /) -> Callable[P, R]: ...

        def run(self, *args: Any, **kwargs: Any) -> R | Coroutine[Any, Any, R]:
            """Do the work; a class of tasks defines it, and takes the context here."""

        def __call__(self: _Runs[S], *args: Any, **kwargs: Any) -> S:
            """Do the work here and now, as a coroutine where ``run`` is one."""

        def delay(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
            """Send a job."""

        def s(self, *args: Any, **kwargs: Any) -> TypedSignature[R]:
            """Make a signature; what it lacks comes from its caller or from the result before it in a chain."""

        def si(self, *args: P.args, **kwargs: P.kwargs) -> TypedSignature[R]:
            """Make a signature that takes no more arguments."""

        @overload
        def apply_async(
            self: Calls[[], S], args: tuple[()] | None = None, kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(
            self: Calls[[A], S], args: tuple[A], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(
            self: Calls[[A, B], S], args: tuple[A, B], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(
            self: Calls[[A, B, C], S], args: tuple[A, B, C], kwargs: None = None, **options: Unpack[SendOptions]
        ) -> JobHandle[S]: ...
        @overload
        def apply_async(self, args: Unchecked, kwargs: None = None, **options: Unpack[SendOptions]) -> JobHandle[R]: ...
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

    class TypedTask(Task):
        """Celery's, with type arguments, which it takes itself only since 5.7."""

        __class_getitem__ = classmethod(GenericAlias)

    class TypedResult(AsyncResult):
        """Celery's, with type arguments."""

        __class_getitem__ = classmethod(GenericAlias)

    class TypedEagerResult(EagerResult):
        """Celery's, with type arguments."""

        __class_getitem__ = classmethod(GenericAlias)
