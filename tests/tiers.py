"""Which tests run on every commit: those that no marker names as a part of the release tier.

`pytest tests/router` runs the tests of every commit there; `pytest -m matrix tests/router` that part. A test that is
named whole, as `pytest tests/router/test_chat.py::test_it`, runs whatever it is marked."""

import os

import pytest


def parts(config: pytest.Config) -> set[str]:
    """The markers of pyproject.toml that name a part."""
    return {line.partition(":")[0].strip() for line in config.getini("markers") if " part: " in line}


def is_of_every_commit(item: pytest.Item) -> bool:
    return parts(item.config).isdisjoint(mark.name for mark in item.iter_markers())


# Last: folders mark their tests in hooks of their own.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    chosen = [item for item in items if is_of_every_commit(item) or is_named(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def is_named(item: pytest.Item) -> bool:
    """Whether the command line names it, or its class, and not only its file or folder."""
    own = f"{item.path}::{item.nodeid.partition('::')[2]}"
    named = [os.path.abspath(argument) for argument in item.config.args if "::" in argument]
    return any(own == name or own.startswith((f"{name}[", f"{name}::")) for name in named)
