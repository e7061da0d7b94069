"""Where a handler takes its context, and what its callers see of that: nothing."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task

import taskora_celery
from taskora_celery import Context, ContextTask, NoActiveJobError, current_context, local_context
from taskora_celery.injection import find_parameter, without_parameter
from tests.support.eager_apps import defined, eager_app, outcome, tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


@pytest.fixture
def app() -> Celery:
    """An app of this library's base."""
    return eager_app()


@pytest.fixture
def plain_app() -> Celery:
    """An app of Celery's own base."""
    return eager_app(Task)


def result_of(task: Any, args: Any, kwargs: Any) -> Any:
    """The result of an eager run."""
    return task.delay(*args, **kwargs).get()


# --- A1: where it is found ---------------------------------------------------------------------------------------------

#: Handlers, and the same ones without a context.
FORMS = [
    ("def f(data, job: Context)", "def f(data)"),
    ("def f(data, ctx)", "def f(data)"),
    ("def f(ctx)", "def f()"),
    ("def f(job: Context, data)", "def f(data)"),
    ("def f(data, job: Context, size)", "def f(data, size)"),
    ("def f(data, ctx=None, size=1)", "def f(data, size=1)"),
    ("def f(data, size=2, ctx=None)", "def f(data, size=2)"),
    ("def f(data=None, *, ctx)", "def f(data=None)"),
    ("def f(data, *, size=2, job: Context)", "def f(data, *, size=2)"),
    ("def f(job: Context, /, data)", "def f(data)"),
    ("def f(data=1, job: Context = None, /, size=2)", "def f(data=1, /, size=2)"),
    ("def f(data, ctx, *rest)", "def f(data, *rest)"),
    ("def f(ctx, *rest)", "def f(*rest)"),
    ("def f(*rest, ctx)", "def f(*rest)"),
    ("def f(data, ctx, **more)", "def f(data, **more)"),
    ("def f(*rest, ctx=None, size=3, **more)", "def f(*rest, size=3, **more)"),
    ("def f(data: int, ctx: Context = None, size: int = 3) -> dict", "def f(data: int, size: int = 3) -> dict"),
]
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2, 3), {}),
    ((), {"data": 1}),
    ((), {"size": 5}),
    ((1,), {"size": 2}),
    ((1,), {"data": 1}),
    ((1,), {"other": 4}),
]
BINDS = [False, True]


@pytest.mark.parametrize(("ours", "plain"), FORMS, ids=[ours for ours, _ in FORMS])
@pytest.mark.parametrize("bind", BINDS, ids=["plain", "bound"])
def test_callers_see_the_handler_without_its_context(
    app: Celery, plain_app: Celery, ours: str, plain: str, *, bind: bool
) -> None:
    """A1, A2: right arguments reach their places around the context, wrong ones are refused in plain Celery's own words."""
    if bind:
        ours, plain = (text.replace("f(", "f(self, ").replace(", )", ")") for text in (ours, plain))
    task = app.task(bind=bind)(defined(f"{ours}: return locals()", Context=Context))
    reference = plain_app.task(bind=bind)(defined(f"{plain}: return locals()"))
    for args, kwargs in CALLS:
        expected = outcome(result_of, reference, args, kwargs)
        found = outcome(result_of, task, args, kwargs)
        if isinstance(found, dict):
            (name,) = [name for name, value in found.items() if isinstance(value, Context)]
            assert name in {"ctx", "job"}
            del found[name]
            assert found.pop("self", task) == task
            expected.pop("self", None)
        assert found == expected, (args, kwargs)


@pytest.mark.parametrize(("ours", "plain"), FORMS, ids=[ours for ours, _ in FORMS])
def test_a_direct_call_fills_the_context_in_too(app: Celery, ours: str, plain: str) -> None:
    """A1, A5: what fits the handler without a context fits the task, and nothing else does."""
    task = app.task(defined(f"{ours}: return locals()", Context=Context))
    reference = defined(f"{plain}: return locals()")
    for args, kwargs in CALLS:
        expected = outcome(reference, *args, **kwargs)
        found = outcome(task, *args, **kwargs)
        if isinstance(expected, str):
            assert isinstance(found, str), (args, kwargs)  # Python counts the parameters that there are
        else:
            assert {name: value for name, value in found.items() if not isinstance(value, Context)} == expected


@pytest.mark.parametrize(
    "annotation",
    [
        "Context",
        "'Context'",
        "Context | None",
        "'Context | None'",
        "None | Context",
        "Optional[Context]",
        "typing.Optional['Context']",
        "Union[None, Context]",
        "taskora_celery.Context",
        "'taskora_celery.Context'",
        "taskora_celery.context.Context",
        "Alias",
    ],
)
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"], ids=["evaluated", "text"])
def test_the_annotation_is_understood_however_it_is_written(annotation: str, future: str) -> None:
    """A1: in the module's own names, which may be imported, aliased or qualified."""
    prelude = (
        "import typing, taskora_celery\nfrom typing import Optional, Union\nfrom taskora_celery import Context\nAlias = Context\n"
    )
    handler = defined(f"{future}{prelude}def f(ctx: int, job: {annotation}): ...")
    _, parameter = find_parameter(handler, bound=False)
    assert parameter is not None
    assert parameter.name == "job"


@pytest.mark.parametrize(
    "annotation", ["Context", "Context | None", "Optional[Context]", "taskora_celery.Context", "typing.Optional[t.Context]"]
)
def test_the_annotation_is_understood_where_only_type_checkers_import_the_name(annotation: str) -> None:
    """A1: under ``if TYPE_CHECKING`` the name does not exist when the task is made; its text is all that there is."""
    handler = defined(f"from __future__ import annotations\ndef f(data: Rows, job: {annotation}): ...")
    _, parameter = find_parameter(handler, bound=False)
    assert parameter is not None
    assert parameter.name == "job"


OTHERS = [
    "CeleryContext",
    "celery.app.task.Context",
    "list[Context]",
    "Callable[[Context], None]",
    "dict[Context, None]",
    "Context | int",
    "Context | int | None",
]


@pytest.mark.parametrize("annotation", OTHERS)
@pytest.mark.parametrize(
    ("future", "known"),
    [("", True), ("from __future__ import annotations\n", True), ("from __future__ import annotations\n", False)],
    ids=["evaluated", "text", "type-checking"],
)
def test_other_annotations_are_not_ours(future: str, annotation: str, *, known: bool) -> None:
    """A1: Celery has a ``Context`` of its own, and a parameter of another type is the caller's."""
    prelude = (
        "import celery.app.task\nfrom celery.app.task import Context as CeleryContext\n"
        "from typing import Callable\nfrom taskora_celery import Context\n"
    )
    handler = defined(f"{future}{prelude if known else ''}def f(data, job: {annotation}): ...")
    assert find_parameter(handler, bound=False)[1] is None


def test_the_annotation_goes_before_the_name() -> None:
    """A1: a parameter that is called ``ctx`` and has another type belongs to the callers."""
    _, parameter = find_parameter(defined("def f(ctx, job: Context): ...", Context=Context), bound=False)
    assert parameter is not None
    assert parameter.name == "job"
    assert find_parameter(defined("def f(data, ctx: dict): ..."), bound=False)[1] is None
    assert find_parameter(defined("def f(*ctx): ..."), bound=False)[1] is None
    assert find_parameter(defined("def f(**ctx): ..."), bound=False)[1] is None


def test_two_context_parameters_are_refused_by_name(app: Celery) -> None:
    """A1: which of them would it be? Both are named, and so is the handler."""
    with pytest.raises(TypeError, match=r"f has 2 parameters annotated Context \(first, second\): keep one"):
        app.task(lazy=False)(defined("def f(first: Context, data, second: Context): ...", Context=Context))


def test_a_decorated_handler_keeps_its_context(app: Celery) -> None:
    """A1, A4: ``functools.wraps`` leads to the handler's own signature, through any number of decorators."""

    def logged(fun: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fun)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return ["wrapped", *fun(*args, **kwargs)]

        return wrapper

    @app.task
    @logged
    @logged
    def work(data: Any, job: Context) -> list[Any]:
        return [data, job.name]

    assert work.delay(1).get() == ["wrapped", "wrapped", 1, work.name]
    assert work.delay(1, 2).state == "FAILURE"  # Celery's check at the caller does not look behind a decorator


def test_a_partial_keeps_its_arguments(app: Celery) -> None:
    """A1, A4: a handler whose arguments are given in part takes the rest, and the context."""

    def work(fixed: Any, data: Any, job: Context, size: int = 1) -> list[Any]:
        return [fixed, data, size, job.name]

    class Partial(ContextTask):
        name = "unit.partial"
        run = functools.partial(work, "fixed", size=7)

    task = app.register_task(Partial())
    assert task.delay("data").get() == ["fixed", "data", 7, "unit.partial"]


@pytest.mark.parametrize("static", [True, False])
def test_a_handler_that_cannot_be_inspected_runs_as_it_is(app: Celery, *, static: bool) -> None:
    """A1: a function of C takes what it takes."""

    class Largest(ContextTask):
        name = "unit.largest"
        run = staticmethod(max) if static else max

    task = app.register_task(Largest())
    assert task.delay(3, 5, 4).get() == 5
    assert task(3, 2) == 3
    assert task.taskora_parameter is None


def test_what_celery_cannot_take_is_refused_in_its_words(app: Celery, plain_app: Celery) -> None:
    """A1, A6: ``@app.task`` on a function without a signature fails as under plain Celery."""
    texts = [outcome(one.task, max) for one in (plain_app, app)]
    assert isinstance(texts[0], str)
    assert texts[0] == texts[1]


def test_the_signature_without_the_context_keeps_the_rest() -> None:
    """A2: kinds, defaults and annotations of the others stay."""
    signature, parameter = find_parameter(defined("def f(a, /, b: int = 2, *c, ctx, d=3, **e): ..."), bound=False)
    assert signature is not None
    assert parameter is not None
    assert str(without_parameter(signature, parameter.name)) == "(a, /, b: int = 2, *c, d=3, **e)"


# --- A2: callers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(app: Celery) -> Any:
    """A task that takes a context."""

    @app.task
    def work(data: Any, ctx: Context, size: int = 1) -> list[Any]:
        return [data, size]

    return work


@pytest.mark.parametrize("value", [5, None, local_context()], ids=["number", "none", "context"])
def test_a_caller_may_not_name_the_context(work: Any, value: Any) -> None:
    """A2: one clear message that says what to do."""
    message = r"work\(\) got a context for 'ctx': callers leave it out, the worker fills it in"
    for call in (work.delay, lambda *args, **kwargs: work.apply_async(args, kwargs), lambda *a, **k: work.s(*a, **k).delay()):
        with pytest.raises(TypeError, match=message):
            call(1, ctx=value)


def test_a_caller_may_not_pass_a_context_by_position(app: Celery, work: Any) -> None:
    """A2: a context belongs to its running job, whether the other task takes one or not."""

    @app.task
    def unaware(*data: Any, **more: Any) -> None: ...

    for task, args, kwargs in [
        (work, (1, local_context()), {}),
        (unaware, (local_context(),), {}),
        (unaware, (), {"a": local_context()}),
    ]:
        with pytest.raises(TypeError, match="got a context for 'ctx'"):
            task.delay(*args, **kwargs)


@pytest.mark.parametrize(("args", "kwargs"), [(7, None), (None, 7), ("ab", None), ((1,), [2])])
def test_arguments_of_a_wrong_kind_get_celerys_own_error(args: Any, kwargs: Any) -> None:
    """A2, A6: the check for contexts does not come before Celery's own."""

    def work(data: Any) -> Any:
        return data

    texts = []
    for task_cls in (Task, ContextTask):
        app = eager_app(task_cls, task_always_eager=False)
        task = app.task(work)
        texts.append(outcome(task.apply_async, args, kwargs))
    assert isinstance(texts[0], str)
    assert texts[0] == texts[1]


def test_without_typing_arguments_are_checked_where_they_arrive(app: Celery) -> None:
    """A2: ``typing=False`` switches the check off, and the handler itself refuses."""

    @app.task(typing=False)
    def work(data: Any, ctx: Context) -> Any:
        return data

    handle = work.delay()
    assert handle.state == "FAILURE"
    assert "missing 1 required positional argument: 'data'" in str(handle.result)


# --- A3: without a parameter ---------------------------------------------------------------------------------------------


def test_code_at_any_depth_finds_the_context(app: Celery) -> None:
    """A3: in functions, nested functions and generators that the handler calls, and as ``self.ctx``."""

    def deeper(depth: int) -> Context:
        return deeper(depth - 1) if depth else current_context()

    @app.task(bind=True)
    def work(self: Any) -> bool:
        def nested() -> Context:
            return next(context for context in (current_context() for _ in range(1)))

        return self.ctx is deeper(20) is nested() is current_context()

    assert work.delay().get()
    assert work()


def test_outside_a_job_there_is_no_context(app: Celery) -> None:
    """A3: it raises, unless a default is given; the error is a RuntimeError, too."""

    @app.task(bind=True)
    def work(self: Any) -> None: ...

    work.delay()
    assert current_context(None) is None
    assert current_context("none") == "none"
    for outside in (current_context, lambda: work.ctx):
        with pytest.raises(NoActiveJobError, match="no job is running here"):
            outside()
    assert issubclass(NoActiveJobError, RuntimeError)


def test_an_attribute_called_ctx_is_the_users(app: Celery) -> None:
    """A3: a class that has a ``ctx`` of its own keeps it; its handler still gets the context."""

    class Own(ContextTask):
        name = "unit.own_ctx"
        ctx: Any = "mine"

        def run(self, job: Context) -> list[Any]:
            return [self.ctx, job.name, current_context().name]

    assert app.register_task(Own()).delay().get() == ["mine", "unit.own_ctx", "unit.own_ctx"]


# --- A4: ways to make a task ---------------------------------------------------------------------------------------------


def test_a_class_gets_its_context_in_run(app: Celery) -> None:
    """A4: as do its subclasses, which may call ``super().run`` with the context or without."""

    class Base(ContextTask):
        abstract = True

        def run(self, data: Any, ctx: Context) -> list[Any]:
            ctx.log.info("base")
            return [data, ctx.id, current_context() is ctx]

    class Passing(Base):
        name = "unit.passing"

        def run(self, data: Any, ctx: Context) -> list[Any]:
            return [*super().run(data, ctx), ctx.id]

    class Leaving(Base):
        name = "unit.leaving"

        def run(self, data: Any) -> list[Any]:  # type: ignore[override]
            return [*super().run(data), self.ctx.id]  # type: ignore[call-arg]

    class Inheriting(Base):
        name = "unit.inheriting"

    for cls in (Passing, Leaving):
        handle = app.register_task(cls()).delay(1)
        assert handle.get() == [1, handle.id, True, handle.id]
        assert [entry.message for entry in handle.get_logs()] == ["base"]
    handle = app.register_task(Inheriting()).delay(2)
    assert handle.get() == [2, handle.id, True]


def test_run_may_come_from_a_mixin(app: Celery) -> None:
    """A4: from a class that is no task, on either side of the base."""

    class Mixin:
        def run(self, data: Any, ctx: Context) -> list[Any]:
            return [data, ctx.name]

    class First(Mixin, ContextTask):
        name = "unit.first"

    class Last(ContextTask, Mixin):
        name = "unit.last"
        run = Mixin.run

    for cls in (First, Last):
        assert app.register_task(cls()).delay(1).get() == [1, cls.name]
    assert not hasattr(Mixin.run, "taskora_handler")


def test_a_mixin_need_not_know_all_that_celery_takes(app: Celery) -> None:
    """A4: one behind the base that knows the arguments, and takes all else as options."""

    class Mixin(Task):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().apply_async(args, kwargs, **options)

        def retry(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().retry(args, kwargs, **options)

    class Mixed(ContextTask, Mixin):  # type: ignore[misc]
        name = "unit.mixed"

        def run(self, data: Any, ctx: Context) -> list[Any]:
            if ctx.attempt == 1:
                self.retry(countdown=0)
            return [data, ctx.attempt]

    assert app.register_task(Mixed()).apply_async((1,), link=None).get() == [1, 2]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_run_may_be_static_or_of_the_class(app: Celery, kind: Any) -> None:
    """A4: Python's own kinds of methods keep their meaning."""

    def run(*args: Any, ctx: Context) -> list[Any]:
        return [len(args), args[-1], ctx.name]

    task = app.register_task(type("Kind", (ContextTask,), {"name": "unit.kind", "run": kind(run)})())
    assert task.delay("data").get() == [1 if kind is staticmethod else 2, "data", "unit.kind"]


def test_one_task_of_an_app_may_have_the_base(work: Any) -> None:
    """A4: ``@app.task(base=ContextTask)`` in an app of plain tasks."""
    app = eager_app(Task)

    @app.task(base=ContextTask)
    def ours(data: Any, ctx: Context) -> list[Any]:
        return [data, ctx.name]

    @app.task
    def plain(ctx: Any) -> Any:
        return ctx

    assert ours.delay(1).get() == [1, ours.name]
    assert plain.delay("a plain argument").get() == "a plain argument"


def test_a_base_may_be_named_by_its_import_path() -> None:
    """A4: ``Celery(task_cls="…")`` imports it when it is needed."""
    app = Celery("named", broker="memory://", task_cls="taskora_celery:ContextTask", set_as_current=False)
    assert issubclass(app.Task, taskora_celery.ContextTask)


def test_a_subclass_with_its_own_call_keeps_it(app: Celery) -> None:
    """A4: it is called around the handler, which still gets its context."""
    calls = []

    class Called(ContextTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return self.run(*args, **kwargs)

    @app.task(base=Called)
    def work(data: Any, ctx: Context) -> list[Any]:
        ctx.progress(1)
        return [data, ctx.name]

    handle = work.delay(1)
    assert handle.get() == work(1) == [1, work.name]
    assert handle.get_progress() == 1
    assert calls == [(1,), (1,)]


@pytest.mark.parametrize("upward", [True, False], ids=["super", "alone"])
def test_hooks_get_what_celery_gives_them(upward: bool) -> None:
    """A4: the same arguments, without the context, whether they call ``super()`` or not."""

    def heard(task_cls: type[Any]) -> list[Any]:
        calls: list[Any] = []
        hooks = ["before_start", "on_success", "on_failure", "on_retry", "after_return"]

        def hook(name: str) -> Callable[..., Any]:
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                shown = [arg for arg in args if isinstance(arg, str | tuple | list | dict | int | ValueError)]
                calls.append((name, [str(arg) for arg in shown], len(args), kwargs))
                return getattr(super(hooked, self), name)(*args, **kwargs) if upward else None

            return method

        hooked: Any = type("Hooked", (task_cls,), {"abstract": True, **{name: hook(name) for name in hooks}})
        app = eager_app()

        @app.task(base=hooked, bind=True, max_retries=1, shared=False)
        def work(self: Any, how: str) -> str:
            if how == "retry" and not self.request.retries:
                raise self.retry(countdown=0)
            if how == "fail":
                raise ValueError(how)
            return how

        for how in ("succeed", "fail", "retry"):
            work.apply((how,), task_id=how)
        return calls

    expected = heard(Task)
    assert len(expected) == 3 + 3 + 2 + 3
    assert heard(ContextTask) == expected


def test_annotations_of_the_configuration_apply() -> None:
    """A4: ``task_annotations`` set options of our tasks as of any others."""
    app = eager_app(task_annotations={"*": {"rate_limit": "9/s"}, "unit.noted": {"max_retries": 8}})

    @app.task(name="unit.noted")
    def noted(ctx: Context) -> list[Any]:
        return [ctx.max_attempts, current_context() is ctx]

    assert noted.delay().get() == [9, True]
    assert noted.rate_limit == "9/s"


@pytest.mark.parametrize("where", ["option", "class", "configuration"])
def test_a_task_that_is_not_tracked_may_not_take_a_context(where: str) -> None:
    """A4, A7: the two contradict each other, and that is said when the task is made."""

    class Base(ContextTask):
        name = "unit.base"

        def run(self, ctx: Context) -> None: ...

    quiet = {"unit.base": {"tracked": False}} if where == "configuration" else {}
    app = eager_app(task_annotations=quiet)
    make: dict[str, Callable[[], Any]] = {
        "option": lambda: app.task(tracked=False)(defined("def f(data, ctx): ...")),
        "class": lambda: type("Quiet", (Base,), {"tracked": False}),
        "configuration": lambda: app.register_task(Base()),
    }
    with pytest.raises(TypeError, match="tracked=False leaves the task alone, but its handler takes a context"):
        make[where]()


def test_a_task_that_is_not_tracked_is_left_alone(app: Celery) -> None:
    """A7: its handler is the user's own function, and no context is made, in an eager run neither."""

    def work(data: Any) -> Any:
        return [data, current_context(None)]

    task = app.task(tracked=False)(work)
    assert task.run is work
    assert task.delay(1).get() == [1, None]


def test_a_subclass_may_switch_tracking_off_and_on(app: Celery) -> None:
    """A7: what counts is the class of the task, not the one that its handler comes from."""

    class On(ContextTask):
        name = "unit.on"

        def run(self) -> bool:
            return current_context(None) is not None

    class Off(On):
        name = "unit.off"
        tracked = False

    class OnAgain(Off):
        name = "unit.on_again"
        tracked = True

    assert [app.register_task(cls()).delay().get() for cls in (On, Off, OnAgain)] == [True, False, True]


def test_names_and_texts_of_the_handler_stay(app: Celery) -> None:
    """A6: whatever looks at a task's name, doc, module or source finds the handler's."""

    @app.task
    def work(data: Any, ctx: Context) -> Any:
        """Do the work."""

    assert (work.__doc__, work.__name__, work.__module__) == ("Do the work.", "work", __name__)
    assert (work.run.__doc__, work.run.__name__, work.run.__module__) == ("Do the work.", "work", __name__)
    assert work.__wrapped__(1, None) is None


def test_the_parameter_of_each_class_is_its_own(app: Celery) -> None:
    """A4: a subclass whose ``run`` takes the context elsewhere, or not at all, is asked itself."""

    class Second(ContextTask):
        abstract = True

        def run(self, data: Any, job: Context) -> Any: ...

    class First(Second):
        def run(self, job: Context, data: Any) -> Any: ...  # type: ignore[override]

    class Neither(First):
        def run(self, data: Any) -> Any: ...  # type: ignore[override]

    found = [cls.taskora_parameter and cls.taskora_parameter.index for cls in (Second, First, Neither)]
    assert found == [1, 0, None]
    assert [first is second for first, second in itertools.combinations((Second.run, First.run, Neither.run), 2)] == [False] * 3
