"""pytest with t2iprobe installed: ``--t2iprobe-plugin`` tests a plugin without a line of test code.

pytest imports this file at every start, so it imports nothing else before an option asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("t2iprobe", "plugins of t2iprobe")
    group.addoption(
        "--t2iprobe-plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="also check what the contracts promise on everything that this plugin registers, as far as no examples "
        "are needed; as its entry point names it, repeatable",
    )
    group.addoption("--t2iprobe-device", metavar="DEVICE", help="device that adapters are checked on, default cpu")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the device."""
    if device := config.getoption("--t2iprobe-device"):
        os.environ["T2IPROBE_TEST_DEVICE"] = device


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of the plugins that are asked for, before ``-k`` chooses among all."""
    for plugin in config.getoption("--t2iprobe-plugin"):
        items += session.genitems(PluginTests.from_parent(session, name=plugin, nodeid=plugin))


class PluginTests(pytest.Collector):
    """The tests of one plugin."""

    def collect(self) -> Iterator[pytest.Item]:
        """One test for each promise of each thing that it registers."""
        from t2iprobe.testing.whole import conformance_of

        for tests in conformance_of(self.name):
            for name in (one for one in vars(tests) if one.startswith("test_")):
                title = f"{tests.__name__}::{name}"
                yield LawTest.from_parent(self, name=title, run=getattr(tests(), name))


class LawTest(pytest.Item):
    """A promise that is checked."""

    def __init__(self, *, run: Callable[[], None], **more: Any) -> None:
        super().__init__(**more)
        self._run = run

    def runtest(self) -> None:
        """Check it."""
        self._run()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """What was found, without the way through our code."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """See pytest."""
        return self.path, None, self.name
