"""Where a function takes its context, and what is left for its callers: for type checkers alone.

The type of a function cannot be asked for the place of a ``Context``. But a method may name the type of its ``self``, and of
several overloads type checkers keep those whose ``self`` fits. So each method that callers use is an object here, ``_Of`` a
function, with one overload for each shape that the function may have.

Overloads of the decorator would be shorter, but mypy gives them up for a function with an ``Any`` anywhere in its parameters; and
the task itself cannot be the ``self``, because without stubs its base class is ``Any``, which fits each shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, overload

    from typing_extensions import TypedDict, Unpack

    from taskora_celery.context import Context
    from taskora_celery.handle import JobHandle
    from taskora_celery.typed import TypedSignature

    # A, B, C are the parameters before the context, Q are those that callers pass, F are all; S and G are results.
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    F = ParamSpec("F")
    Q = ParamSpec("Q")
    S = TypeVar("S")
    A_contra = TypeVar("A_contra", contravariant=True)
    B_contra = TypeVar("B_contra", contravariant=True)
    C_contra = TypeVar("C_contra", contravariant=True)
    S_co = TypeVar("S_co", covariant=True)
    G_co = TypeVar("G_co", covariant=True)

    class _Picklable(Protocol):
        """Everything but a context, whose ``__reduce__`` returns nothing that could be sent."""

        def __reduce__(self) -> str | tuple[Any, ...]: ...

    # None, protocols and what can be called have no `__reduce__` for mypy.
    _Sendable: TypeAlias = _Picklable | Iterable[Any] | Callable[..., Any] | type[Any] | None

    class _Arguments(Protocol):
        """Calls any function, but passes no context."""

        def __call__(self, *args: _Sendable, **kwargs: _Sendable) -> object: ...

    class _ArgumentsAndKeyword(Protocol):
        """Calls any function that takes a context by keyword."""

        def __call__(self, *args: _Sendable, ctx: Context, **kwargs: _Sendable) -> object: ...

    class _Of(Protocol[F, G_co]):
        """Belongs to a function: ``_shape`` says what may call it, and how it is called.

        Whether a parameter accepts a ``Context`` is seen from the type of the function, but so do ``Any`` and ``object``. Whether
        it accepts nothing else is seen where the function's type is the parameter of a parameter: there all runs the other way.
        """

        def _shape(self, caller: Callable[F, object], /) -> Callable[F, G_co]: ...

    class Calls(Protocol[Q, S_co]):
        """Fits what is called so, whether there is a context or not."""

        def _shape(self, caller: Any, /) -> Callable[Q, S_co]: ...

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
        def __call__(self: _Plain[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> TypedSignature[S]: ...
        @overload
        def __call__(self: _First[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> TypedSignature[S]: ...
        @overload
        def __call__(self: _Second[A, Q, S], a: A, /, *args: Q.args, **kwargs: Q.kwargs) -> TypedSignature[S]: ...
        @overload
        def __call__(self: _Third[A, B, Q, S], a: A, b: B, /, *args: Q.args, **kwargs: Q.kwargs) -> TypedSignature[S]: ...
        @overload
        def __call__(
            self: _Fourth[A, B, C, Q, S], a: A, b: B, c: C, /, *args: Q.args, **kwargs: Q.kwargs
        ) -> TypedSignature[S]: ...
        @overload
        def __call__(self: _Keyword[S], *args: Any, **kwargs: Any) -> TypedSignature[S]: ...

    class SendOptions(TypedDict, total=False):
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

    Unchecked: TypeAlias = list[Any] | tuple[Any, Any, Any, Any, Unpack[tuple[Any, ...]]]

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
        def __call__(self, args: Unchecked, kwargs: None = None, **options: Unpack[SendOptions]) -> JobHandle[G_co]: ...
        @overload
        def __call__(
            self, args: Sequence[Any] | None, kwargs: Mapping[str, Any], **options: Unpack[SendOptions]
        ) -> JobHandle[G_co]: ...
        @overload
        def __call__(
            self, args: Sequence[Any] | None = None, *, kwargs: Mapping[str, Any], **options: Unpack[SendOptions]
        ) -> JobHandle[G_co]: ...
