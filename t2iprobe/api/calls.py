"""Makes functions of ``import t2iprobe`` that do what a command does: :func:`on_model`, `on_pairs`, `on_prompts`.

A command's options are the function's keyword arguments; the command's options model is the only place that defines
their names, defaults and descriptions. ``help()`` shows all of them.
"""

from __future__ import annotations

import csv
import functools
import inspect
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic.fields import FieldInfo

from t2iprobe.core.command_options import Options
from t2iprobe.core.errors import ConfigError, StoppedError
from t2iprobe.core.names import near
from t2iprobe.core.option_groups import CheckpointOptions, DeviceOptions
from t2iprobe.core.textfile import entries, lines_of
from t2iprobe.registry.manager import Family, Plugins

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Pipeline
    from t2iprobe.core.load_options import LoadOptions
    from t2iprobe.core.model import Model
    from t2iprobe.core.pairs import Pair

    Pairs = int | str | Path | Sequence[Pair | tuple[str, str]] | None

Out = str | Path | None
Prompts = str | Path | Sequence[str] | None
Left = TypeVar("Left")
Result = TypeVar("Result", covariant=True)
Asked = TypeVar("Asked", bound=Options)
#: options of a command that are not for Python because they decide how it prints, or that every function has
OWN = frozenset({"format", "plan", "model", "out"})
COLUMNS = ("source", "target", "seed", "concept")  # columns of a file of pairs
#: an option in a message, with its value if that is a number or a placeholder for one
OPTION = re.compile(r"--(?P<name>[a-z][a-z-]*)(?: (?P<value>[A-Z0-9][\w,.-]*))?")
SPELT = {"from": "from_run"}  # "from" is a Python keyword
#: options that are already decided once a model is built
BUILT = ("upscaler", *CheckpointOptions.model_fields, *DeviceOptions.model_fields)
SHARED = """Args:
    model: what :func:`t2iprobe.load` gives or takes.
    out: run folder, which is kept: the same call continues where it stopped, or finds the run finished. Without it, the
        run is kept in a temporary folder that is removed together with the result.
    quiet: show neither plan nor progress, which otherwise go to stderr.
    plugins: the plugins to use; default all that are installed."""
RAISES = """
Raises:
    ConfigError: an option is not known or is impossible, or the run takes hours and ``yes=True`` was not given.
    RunExistsError: ``out`` holds another run.
    StoppedError: Ctrl-C was pressed; what was measured is kept if ``out`` was given.
"""
WRITTEN = {  # arguments that Python takes in more forms than a shell
    "pairs": "how many pairs of a prompt set; or a CSV file, or a list of pairs or of (source, target) prompts.",
    "prompts": "one or several, or the ``Path`` of a file with one a line.",
}


class OnModel(Protocol[Result]):
    """A function that does what a command does."""

    def __call__(
        self, model: Model | Any, *, out: Out = ..., quiet: bool = ..., plugins: Plugins | None = ..., **options: Any
    ) -> Result: ...


class OnPairs(Protocol[Result]):
    """Likewise, on pairs of prompts."""

    def __call__(
        self, model: Model | Any, *, pairs: Pairs = ..., out: Out = ..., quiet: bool = ..., **options: Any
    ) -> Result: ...


class OnPrompts(Protocol[Result]):
    """Likewise, on prompts."""

    def __call__(
        self, model: Model | Any, *, prompts: Prompts = ..., out: Out = ..., quiet: bool = ..., **options: Any
    ) -> Result: ...


def on_model(kind: type[Asked]) -> Callable[[Callable[[Asked, Plugins], Left]], OnModel[Left]]:
    """Turn what a command does with its options into a function of a model, with the options as keyword arguments."""
    return functools.partial(_function, kind, ())


def on_pairs(kind: type[Asked]) -> Callable[[Callable[[Asked, Plugins], Left]], OnPairs[Left]]:
    """Like :func:`on_model`; ``pairs`` is a number, a file, or the pairs."""
    return functools.partial(_function, kind, ("pairs",))


def on_prompts(kind: type[Asked]) -> Callable[[Callable[[Asked, Plugins], Left]], OnPrompts[Left]]:
    """Like :func:`on_model`; ``prompts`` is a file, or the prompts."""
    return functools.partial(_function, kind, ("prompts",))


def _function(kind: type[Asked], written: tuple[str, ...], body: Callable[[Asked, Plugins], Left]) -> Any:
    """The function; the arguments ``written`` may be given as values instead of a file."""

    def function(
        model: Model | Any, *, out: Out = None, quiet: bool = False, plugins: Plugins | None = None, **options: Any
    ) -> Left:
        with calling(body.__name__.strip("_"), model, out, quiet, plugins) as call, ExitStack() as stack:
            if "pairs" in written:
                options |= pairs_option(options.pop("pairs", None), options, call)
            elif "prompts" in written:
                options |= stack.enter_context(beside(options.pop("prompts", None)))
            return call.left(body(call.options(kind, options), call.plugins))

    fields = {name: field for name, field in kind.model_fields.items() if name not in OWN}
    shared = list(inspect.signature(function).parameters.values())[:-1]
    listed = [_keyword(name, field) for name, field in fields.items()]
    back = body.__annotations__["return"]
    function.__signature__ = inspect.Signature([*shared, *listed], return_annotation=back)  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = body.__name__
    function.__module__ = body.__module__
    texts = {name: field.description or "" for name, field in fields.items()} | {
        name: WRITTEN[name] for name in written
    }
    lines = [f"    {name}: {in_python(text)}" for name, text in texts.items()]
    function.__doc__ = "\n".join([f"{inspect.getdoc(body)}\n\n{SHARED}", *lines, RAISES])
    return function


def _keyword(name: str, field: FieldInfo) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.is_required() else field.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)


@dataclass(frozen=True)
class Call:
    """One call of a function that does what a command does.

    Args:
        name: name of the function.
        ref: reference of the model.
        plugins: the plugins that provide the model.
        folder: the run folder.
        kept: whether the folder stays; otherwise it is removed together with the result.
        built: whether the model itself was given, and not its name.
    """

    name: str
    ref: str
    plugins: Plugins
    folder: Path
    kept: bool
    built: bool

    def options(self, kind: type[Asked], given: Mapping[str, Any]) -> Asked:
        """The options of the command: those that were given, with this model and this folder.

        Raises:
            ConfigError: an option is not known, is missing, is impossible, or was decided when the model was built.
        """
        for name in given:
            if name in OWN or name not in kind.model_fields:
                raise ConfigError(f"{self.name} takes no {name!r}{near(name, kind.model_fields.keys() - OWN)}")
            if self.built and name in BUILT:
                raise ConfigError(f"{self.name}: the model is built already; give {name}= to t2iprobe.load")
        # more processes would have to load the model themselves
        alone = {"workers": 1} if "workers" in kind.model_fields else {}
        try:
            options = kind(model=self.ref, out=self.folder, **(alone | dict(given)))
        except ConfigError as error:
            raise type(error)(f"{self.name}: {error}") from None
        if self.built and alone and (workers := options.workers or 1) > 1:  # type: ignore[attr-defined]
            raise ConfigError(
                f"{self.name}: workers={workers} needs a model name, because each worker loads it: pass {self.ref!r} "
                "instead of a Model"
            )
        return options

    def left(self, result: Left) -> Left:
        """The result; if the folder is temporary, it is removed together with the result."""
        if not self.kept:
            weakref.finalize(result, shutil.rmtree, self.folder.parent, ignore_errors=True)
        return result


def pairs_option(pairs: Pairs, options: Mapping[str, Any], call: Call) -> dict[str, Any]:
    """The options that ``pairs`` stands for: a number, a file, or a file that is written next to the run folder.

    Raises:
        ConfigError: the number of pairs is given twice.
    """
    if pairs is None:
        return {}
    if isinstance(pairs, int):
        if options.get("limit") is not None:
            raise ConfigError(f"{call.name}: pairs={pairs} and limit={options['limit']} both say how many; give one")
        return {"limit": pairs}
    if isinstance(pairs, str | Path):
        return {"pairs": Path(pairs)}
    file = call.folder.with_name(f"{call.folder.name}-pairs.csv")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(map(_cells, pairs))
    return {"pairs": file}


def _cells(pair: Any) -> list[Any]:
    """A pair, or its two prompts, as a line of a file of pairs; empty cells take the options' seed and concept.

    Raises:
        ConfigError: it is something else.
    """
    from t2iprobe.core.pairs import Pair

    if isinstance(pair, Pair):
        return [getattr(pair, name) for name in COLUMNS]
    if isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(prompt, str) for prompt in pair):
        return [*pair, "", ""]
    raise ConfigError(f"pairs= takes a list of (source, target) prompts or t2iprobe.Pair, found {pair!r} in it")


@contextmanager
def beside(prompts: Prompts) -> Iterator[dict[str, Path]]:
    """The ``prompts`` option of a command: a given file, or one that holds the prompts for as long as they are read.

    A path means a file, and text means a prompt.

    Raises:
        ConfigError: a prompt cannot be written as one line of such a file.
    """
    if prompts is None:
        yield {}
        return
    if isinstance(prompts, Path):
        yield {"prompts": prompts}
        return
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    for number, prompt in enumerate(listed, 1):
        if fault := _fault(prompt):
            raise ConfigError(f"prompt {number} {fault}, found {prompt!r}; prompts are written one per line")
    text = "\n".join(listed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.txt"
        file.write_text(text, encoding="utf-8")
        yield {"prompts": file}


def _fault(prompt: Any) -> str:
    """Why a prompt cannot be a line of a file of prompts; empty if it can."""
    if not isinstance(prompt, str):
        return "is not text"
    if not prompt.strip():
        return "is empty"
    if lines_of(prompt) != [prompt]:
        return "has a line break, or a blank at one of its ends"
    return "" if entries(prompt) else "begins with '# ', like a comment"


@contextmanager
def calling(name: str, model: Any, out: str | Path | None, quiet: bool, plugins: Plugins | None) -> Iterator[Call]:
    """A call whose plan and progress are shown on stderr unless ``quiet``; if it fails, a temporary folder is removed.

    Args:
        name: name of the function.
        model: a :class:`Model`, a built pipeline, or a name.
        out: run folder; default a temporary one.
        quiet: show nothing.
        plugins: the plugins to use; default all that are installed.

    Raises:
        ConfigError: ``model`` is not a model.
        StoppedError: Ctrl-C was pressed.
    """
    from t2iprobe.cli.console import silent

    plugins = plugins or Plugins()
    ref, holding = _held(model, plugins)
    folder = Path(tempfile.mkdtemp(prefix="t2iprobe-")) / "run" if out is None else Path(out)
    try:
        with silent(quiet):
            yield Call(name, ref, holding, folder, out is not None, not isinstance(model, str))
    except BaseException as error:
        if out is None:
            shutil.rmtree(folder.parent, ignore_errors=True)
        if out is None and isinstance(error, StoppedError):
            raise StoppedError(
                f"{name} was stopped; give out= to keep what is measured and to continue from there"
            ) from None
        if isinstance(error, ConfigError) and (said := in_python(str(error))) != str(error):
            raise type(error)(said) from error
        raise


def in_python(text: str) -> str:
    """A message with options as keyword arguments: ``--layers 6`` becomes ``layers=6``; commands in backticks stay."""
    parts = text.split("`")
    return "`".join(part if number % 2 else OPTION.sub(_spelt, part) for number, part in enumerate(parts))


def _spelt(found: re.Match[str]) -> str:
    name, value = found["name"].replace("-", "_"), found["value"]
    name = SPELT.get(name, name)
    return "yes=True" if name == "yes" else f"{name}={value}" if value else name


def _held(model: Any, plugins: Plugins) -> tuple[str, Plugins]:
    """The name of a model, and plugins that provide it by that name."""
    from t2iprobe.core.model import Model

    if isinstance(model, str):
        return model, plugins
    if not isinstance(model, Model):
        model = plugins.load(model)
    ref = model.ref or type(model.pipeline).__name__
    return ref, HoldingPlugins(plugins, ref, model)


class HoldingPlugins(Plugins):
    """A wrapper around plugins that returns an already loaded model for one name.

    Args:
        plugins: plugins for everything else.
        ref: name of the model.
        model: the model.
    """

    def __init__(self, plugins: Plugins, ref: str, model: Model) -> None:
        vars(self).update(vars(plugins))
        self._ref, self._model = ref, model

    def load(self, model: Any, *, upscaler: Any = None, family: Family | None = None, **loading: Any) -> Model:
        """See :meth:`Plugins.load`; the held model keeps its device and dtype."""
        if model is self._model.pipeline or model == self._ref:
            return self._model
        return super().load(model, upscaler=upscaler, family=family, **loading)

    def load_pipeline(self, ref: str, options: LoadOptions) -> Pipeline:
        """See :meth:`Plugins.load_pipeline`."""
        return self._model.pipeline if ref == self._ref else super().load_pipeline(ref, options)
