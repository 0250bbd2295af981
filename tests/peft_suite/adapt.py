"""PEFT's tests, run with our parameters and judged by the table in `reasons.py`."""

import functools
import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import theirs
from reasons import NOT_RUN, find, left_out


def load(name: str) -> ModuleType:
    """A module of their tests; without a network, the tests that need it are skipped, but never in CI.

    Args:
        name: see `theirs.load`.

    Returns:
        The module.
    """
    try:
        return theirs.load(name)
    except theirs.Unavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"PEFT's tests are not in its wheel: {problem}", allow_module_level=True)


def judge(file: str, test: str, settings: dict, model: str, run: Callable[[], Any]) -> None:
    """Run a test of theirs: it passes, or it ends as its row in the table says and counts as skipped for that reason.

    Args:
        file: "testing_common", "test_custom_models" or "test_config".
        test: name of the method.
        settings: of our config.
        model: name of the model.
        run: calls the test.
    """
    row = find(file, test, settings, model)
    if row is not None and row.ends_in is NOT_RUN:
        pytest.skip(row.reason)
    try:
        run()
    except pytest.skip.Exception as skipped:
        if row is None or not isinstance(skipped, row.ends_in) or not row.shows_in(str(skipped)):
            pytest.fail(f"{test} skips itself without a row in reasons.py: {skipped}", pytrace=False)
        pytest.skip(row.reason)
    except (Exception, pytest.fail.Exception) as raised:
        where = traceback.extract_tb(raised.__traceback__)[-1].line
        if row is None or not isinstance(raised, row.ends_in) or not row.shows_in(f"{raised}\n{where}"):
            raise
        pytest.skip(row.reason)
    if row is not None:
        pytest.fail(f"{test} passes, so its row in reasons.py is out of date: {row.reason}", pytrace=False)


class Parameters(NamedTuple):
    """Our values for a `parametrize` of theirs: for all tests with these names, or for one test."""

    names: str
    values: dict[str, tuple]  # by id
    test: str | None = None


def adapted(cls: type, file: str, parameters: list[Parameters], **attributes: Any) -> type:
    """A class of theirs in which each test that takes a config gets ours, and the other tests are left out.

    Args:
        cls: the class.
        file: where it stands.
        parameters: our values.
        attributes: of the new class.

    Returns:
        A subclass for pytest to collect.

    Raises:
        LookupError: a test takes parameters for which there are no values of ours.
    """
    body: dict[str, Any] = dict(attributes)
    for name, test in tests_in(cls):
        wanted = takes_config(test) and name not in left_out(file)
        body[name] = _with_our_parameters(file, name, test, parameters) if wanted else None
    return type(f"{cls.__name__}WithPrompts", (cls,), body)


def tests_in(cls: type) -> Iterator[tuple[str, Callable]]:
    """The tests of a class, inherited ones included."""
    return ((name, member) for name, member in inspect.getmembers(cls, inspect.isfunction) if name.startswith("test"))


def takes_config(test: Callable) -> bool:
    """Whether a config or its class is among a test's parameters."""
    return any(name.startswith("config") for mark in _parametrize_marks(test) for name in _names(mark))


def _with_our_parameters(file: str, name: str, test: Callable, parameters: list[Parameters]) -> Callable:
    @functools.wraps(test)
    def run(self, **arguments):
        settings = arguments.get("config_kwargs") or arguments.get("mandatory_kwargs") or {}
        judge(file, name, settings, arguments.get("model_id", ""), lambda: test(self, **arguments))

    # what they expect to fail stands in our table, too
    run.pytestmark = [_replaced(mark, name, parameters) for mark in test.pytestmark if mark.name != "xfail"]
    return run


def _replaced(mark: pytest.Mark, test: str, parameters: list[Parameters]) -> pytest.Mark:
    if mark.name != "parametrize" or not any(name.startswith("config") for name in _names(mark)):
        return mark
    fitting = [ours for ours in parameters if ours.names.split() == _names(mark) and ours.test in (test, None)]
    if not fitting:
        raise LookupError(f"{test} takes {_names(mark)}: give it values of ours, or a row in reasons.py")
    ours = max(fitting, key=lambda ours: ours.test is not None)
    values = [pytest.param(*values, id=name) for name, values in ours.values.items()]
    return pytest.mark.parametrize(_names(mark), values).mark


def _parametrize_marks(test: Callable) -> list[pytest.Mark]:
    return [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]


def _names(mark: pytest.Mark) -> list[str]:
    names = mark.args[0]
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
