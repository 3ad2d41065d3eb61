"""The explorer's models: :class:`Studios` loads each when it is first asked for, and draws in one thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.names import choice
from t2iprobe.registry.manager import Plugins

if TYPE_CHECKING:
    from t2iprobe.viewer.explorer.studio import Picture, Studio

Answer = TypeVar("Answer")
Check = Callable[[], None]  # raises SupersededError


class SupersededError(T2IProbeError):
    """A later request of the same page has taken its place."""


class Studios:
    """The models that can be explored.

    Args:
        plugins: they load the models.
        given: models beside the embedded ones, with their loading arguments, by name.
    """

    def __init__(self, plugins: Plugins, given: Mapping[str, Mapping[str, Any]]) -> None:
        embedded = [model.name for model in plugins.models().values() if model.present]
        self.plugins = plugins
        self.loading: Mapping[str, Mapping[str, Any]] = {
            **given,
            **{name: {} for name in embedded if name not in given},
        }
        self._studios: dict[str, Studio] = {}
        self._thread = ThreadPoolExecutor(1, "explorer")
        self._numbers = itertools.count()
        self._newest: dict[str, int] = {}

    def ask(self, page: str, model: str, work: Callable[[Studio, Check], Answer]) -> Future[Answer]:
        """Let a studio work in the explorer's thread, in the order of the requests.

        Args:
            page: who asks; what the same page has asked before is given up.
            model: name of the model.
            work: gets the studio, and a function that raises as soon as the page has asked for something else.

        Raises:
            ConfigError: there is no such model.
        """
        choice("model to explore", model, self.loading)
        number = self._newest[page] = next(self._numbers)

        def check() -> None:
            if self._newest.get(page) != number:
                raise SupersededError("a later request has taken its place")

        def job() -> Answer:
            check()
            return work(self._studio(model), check)

        return self._thread.submit(job)

    def picture(self, name: str) -> Picture | None:
        """A picture that was drawn lately, by its name."""
        found = (studio.picture(name) for studio in list(self._studios.values()))
        return next((one for one in found if one is not None), None)

    def close(self) -> None:
        """Give up whatever is drawn or waits."""
        self._newest.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _studio(self, model: str) -> Studio:
        from t2iprobe.viewer.explorer.studio import Studio  # imports torch, which a viewer of runs needs not

        if model not in self._studios:
            self._studios[model] = Studio(self.plugins.load(model, **self.loading[model]))
        return self._studios[model]
