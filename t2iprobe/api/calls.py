"""What the functions of :mod:`t2iprobe.api` that stand for a command have in common: :class:`Call`.

The options of a command are the functions' keyword arguments; its model of them has every name and default once.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from t2iprobe.core.command_options import Options
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.registry.manager import Plugins

if TYPE_CHECKING:
    pass

Left = TypeVar("Left")
Asked = TypeVar("Asked", bound=Options)
#: what a command takes that is not for Python: how it prints; and what the functions take by themselves
OWN = frozenset({"format", "plan", "model", "out"})
BUILT = ("upscaler", "device", "dtype")  # what is decided once a model is built


@dataclass(frozen=True)
class Call:
    """A call of a function that does what a command does.

    Args:
        name: of the function.
        ref: of the model.
        plugins: which give the model.
        folder: where the run lies.
        kept: whether it stays; else it goes with the result.
        built: whether the model was given, and not its name.
    """

    name: str
    ref: str
    plugins: Plugins
    folder: Path
    kept: bool
    built: bool

    def options(self, kind: type[Asked], given: Mapping[str, Any]) -> Asked:
        """The options of a command: those that were given, of this model and in this folder.

        Raises:
            ConfigError: one is not known, is missing, cannot be, or was decided when the model was built.
        """
        for name in given:
            if name in OWN or name not in kind.model_fields:
                raise ConfigError(f"{self.name} takes no {name!r}{near(name, kind.model_fields.keys() - OWN)}")
            if self.built and name in BUILT:
                raise ConfigError(f"{self.name}: the model is built already; give {name}= to t2iprobe.load")
        try:
            return kind(model=self.ref, out=self.folder, **given)
        except ConfigError as error:
            raise type(error)(f"{self.name}: {error}") from None

    def left(self, result: Left) -> Left:
        """The result; where the folder is a temporary one, that is removed with it."""
        if not self.kept:
            weakref.finalize(result, shutil.rmtree, self.folder.parent, ignore_errors=True)
        return result


@contextmanager
def calling(name: str, model: Any, out: str | Path | None, quiet: bool, plugins: Plugins | None) -> Iterator[Call]:
    """A call: its plan and progress are shown on stderr unless ``quiet``; a temporary folder goes if it fails.

    Args:
        name: of the function.
        model: a :class:`Model`, a built pipeline, or a name.
        out: run folder; none is a temporary one.
        quiet: show nothing.
        plugins: default all that are installed.

    Raises:
        ConfigError: the model is none.
    """
    from t2iprobe.cli.console import silent

    plugins = plugins or Plugins()
    ref, holding = _held(model, plugins)
    folder = Path(tempfile.mkdtemp(prefix="t2iprobe-")) / "run" if out is None else Path(out)
    try:
        with silent(quiet):
            yield Call(name, ref, holding, folder, out is not None, not isinstance(model, str))
    except BaseException:
        if out is None:
            shutil.rmtree(folder.parent, ignore_errors=True)
        raise


def _held(model: Any, plugins: Plugins) -> tuple[str, Plugins]:
    """How a model is asked for, and the plugins that then give it."""
    from t2iprobe.core.model import Model
    from t2iprobe.registry.holding import HoldingPlugins

    if isinstance(model, str):
        return model, plugins
    if not isinstance(model, Model):
        model = plugins.load(model)
    ref = model.ref or type(model.pipeline).__name__
    return ref, HoldingPlugins(plugins, ref, model)
