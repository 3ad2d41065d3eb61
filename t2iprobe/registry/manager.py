"""Finds plugins and collects what they register: :class:`Plugins`.

A value, not a global: every caller may build its own. A plugin that is broken, disabled or made for another API does
not affect the others and is never ignored silently: a warning names a broken one, once for each reason, and
:meth:`Plugins.listing` gives the reasons. Imports no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from reprlib import repr as shorten
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from t2iprobe.core import planted
from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError, DamagedError, ModelError, T2IProbeError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.names import built, choice, near
from t2iprobe.registry import hookspecs
from t2iprobe.registry.hookspecs import API, PROJECT
from t2iprobe.registry.kinds import KINDS, OWN, lacking_in, unmarked_in

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from t2iprobe.core.concepts import Concept
    from t2iprobe.core.contracts.adapter import Adapter, Pipeline
    from t2iprobe.core.contracts.detector import Detector, Rewriter
    from t2iprobe.core.contracts.editor import Editor
    from t2iprobe.core.contracts.executor import Executor
    from t2iprobe.core.contracts.inverter import Inverter
    from t2iprobe.core.contracts.localizer import Localizer
    from t2iprobe.core.contracts.metric import Aggregate, Metric, Reader
    from t2iprobe.core.contracts.tracker import Tracker
    from t2iprobe.core.load_options import Embedded
    from t2iprobe.core.model import Model
    from t2iprobe.core.pairs import Pair
    from t2iprobe.core.scoring import Scorer
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.report.folder import RunView
    from t2iprobe.report.sections import Section

#: the bundled plugins; each module is light and imports what it needs inside its hook functions
BUILTIN = (
    "t2iprobe.architectures.plugin",
    "t2iprobe.plugins.localization.plugin",
    "t2iprobe.plugins.organisms.plugin",
    "t2iprobe.plugins.metrics.plugin",
    "t2iprobe.plugins.prompts.plugin",
    "t2iprobe.plugins.inversion.plugin",
    "t2iprobe.plugins.editing.plugin",
    "t2iprobe.plugins.cluster.plugin",
    "t2iprobe.plugins.tracking.plugin",
    "t2iprobe.plugins.toxicity.plugin",
    "t2iprobe.plugins.finetune.plugin",
    "t2iprobe.plugins.continual.plugin",
    "t2iprobe.plugins.hub.plugin",
)
#: similarity to the source's picture, computed for every image
SIMILARITY = ("ssim", "psnr", "mse")
#: a name that no model has
NO_MODEL = "no-such-model"
GROUP = f"{PROJECT}.v{API}"
DISABLE = "T2IPROBE_DISABLE_PLUGINS"
TRACE = "T2IPROBE_TRACE_PLUGINS"

Status = Literal["ok", "skipped", "broken"]
Family = Callable[[Any], "Adapter | None"]


@dataclass(frozen=True, slots=True)
class PluginRow:
    """A line of ``t2iprobe plugins``."""

    name: str
    version: str
    status: Status
    reason: str = ""
    hooks: tuple[str, ...] = ()


class Plugins:
    """The plugins of one session.

    Args:
        builtin: modules of bundled plugins, by name.
        installed: also load what other packages register in the entry-point group ``t2iprobe.v1``.
        extra: further plugins, as objects, named by ``__name__`` or else by their class.
    """

    def __init__(
        self, builtin: Sequence[str] = BUILTIN, *, installed: bool = True, extra: Iterable[object] = ()
    ) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._rows: list[PluginRow] = []
        self._known: dict[str, dict[str, tuple[str, Any]]] = {}
        self._disabled = frozenset(filter(None, map(str.strip, os.environ.get(DISABLE, "").split(","))))
        self._trace()
        self._add_builtin(builtin)
        self._bundled = frozenset(row.name for row in self._rows)
        if installed:
            self._add_installed()
        for plugin in extra:
            self._add(PluginRow(str(getattr(plugin, "__name__", type(plugin).__name__)), "", "ok"), plugin)
        self._drop_unfitting()

    def listing(self) -> list[PluginRow]:
        """Every plugin that was found, in loading order, with its hooks or the reason why it is not used."""
        return [replace(row, hooks=self._hooks_of(row.name)) if row.status == "ok" else row for row in self._rows]

    def versions(self) -> dict[str, str]:
        """Versions of the plugins in use, by name; with broken ones, of which the sound parts are used."""
        used = (row for row in self._rows if row.status != "skipped" and self._manager.has_plugin(row.name))
        return {row.name: row.version for row in used}

    def names(self) -> dict[str, list[str]]:
        """The names that plugins register, by kind: what options such as ``--method`` take."""
        lists = [kind for kind, of in KINDS.items() if of.returns is list]
        return {"architectures" if kind == "adapters" else kind: sorted(self._named(kind)) for kind in lists}

    def provided(self) -> dict[str, dict[str, list[str]]]:
        """The names that each plugin registers, by kind; afterwards :meth:`listing` says which plugins are broken.

        Asks every hook that can be asked without a study. Loaders are asked for a model that does not exist.
        """
        found: dict[str, dict[str, list[str]]] = {}
        for kind in KINDS:
            for name, (plugin, _) in self._registered(kind).items():
                found.setdefault(plugin, {}).setdefault(kind, []).append(name)
        nothing: dict[str, Any] = {"ref": NO_MODEL, "options": LoadOptions("cpu", weights=False), "adapters": {}}
        for plugin, loaded in self._ask("t2iprobe_load_pipeline", **nothing):
            if loaded is not None:
                self._break(plugin, f"t2iprobe_load_pipeline loads {NO_MODEL!r}, which is not its own: return None")
        return found

    def blame(self, kind: str, name: str, error: Exception) -> None:
        """Mark the plugin that registered something as broken, because that raised an error when it was used."""
        self._break(self._registered(kind)[name][0], f"the {KINDS[kind].noun} {name!r} raised {_text(error)}")

    def adapters(self) -> dict[str, type[Adapter]]:
        """Architectures by name."""
        return self._named("adapters")

    def models(self) -> dict[str, Embedded]:
        """Models that plugins ship, by name; see :attr:`Embedded.present`."""
        return self._named("models")

    def metrics(self) -> dict[str, type[Metric]]:
        """Metrics by name."""
        return self._named("metrics")

    def aggregates(self) -> dict[str, type[Aggregate]]:
        """Scores per set of images, by name."""
        return self._named("aggregates")

    def readers(self) -> dict[str, type[Reader]]:
        """OCR engines by name."""
        return self._named("readers")

    def reader(self, ref: str) -> Reader:
        """A reader by name, optionally with settings: ``rapidocr:lang=cyrillic``.

        Raises:
            ConfigError: the reader or the setting does not exist.
        """
        return built("reader", ref, self.readers(), {})

    def concepts(self) -> dict[str, Concept]:
        """What pairs can differ in, by name."""
        return self._named("concepts")

    def prompt_sets(self) -> dict[str, type[Any]]:
        """Sources of prompt pairs by name."""
        return self._named("prompt_sets")

    def inverters(self) -> dict[str, type[Inverter]]:
        """Methods that map an image back to its noise, by name."""
        return self._named("inverters")

    def inverter(self, name: str, **settings: Any) -> Inverter:
        """An inverter with settings, see :meth:`localizer`."""
        return built("inverter", name, self.inverters(), settings)

    def editors(self) -> dict[str, type[Editor]]:
        """Methods that edit text in pictures, by name."""
        return self._named("editors")

    def editor(self, name: str, **settings: Any) -> Editor:
        """An editor with settings, see :meth:`localizer`."""
        return built("editor", name, self.editors(), settings)

    def detectors(self) -> dict[str, type[Detector]]:
        """Detectors of toxic text in prompts, by name."""
        return self._named("detectors")

    def detector(self, name: str, **settings: Any) -> Detector:
        """A detector with settings, see :meth:`localizer`."""
        return built("detector", name, self.detectors(), settings)

    def rewriters(self) -> dict[str, type[Rewriter]]:
        """Methods that make a toxic prompt benign, by name."""
        return self._named("rewriters")

    def rewriter(self, name: str, **settings: Any) -> Rewriter:
        """A rewriter with settings, see :meth:`localizer`."""
        return built("rewriter", name, self.rewriters(), settings)

    def localizers(self) -> dict[str, type[Localizer]]:
        """Localization methods by name."""
        return self._named("localizers")

    def localizer(self, name: str, **settings: Any) -> Localizer:
        """A localization method, by name or ``NAME:key=value,…``, with settings, which may be given as text.

        Raises:
            ConfigError: the method or a setting does not exist, or a value is invalid.
        """
        return built("localizer", name, self.localizers(), settings)

    def scorer(self, concept: str = "text", reader: str = "rapidocr", metrics: Sequence[str] | None = None) -> Scorer:
        """The scorer of a concept: its metrics, plus the similarity to the source's picture.

        Args:
            concept: what the pairs differ in.
            reader: name of the OCR reader, see :meth:`reader`.
            metrics: names of metrics to use instead of the concept's own; the first that judges the concept ranks.

        Raises:
            ConfigError: the concept, the reader or a metric does not exist, no metric judges the concept, or weights
                that a metric needs are missing. All of this is checked before any picture is generated.
        """
        from t2iprobe.core.scoring import Scorer

        known: dict[str, Any] = dict(self.metrics())
        names = metrics or concept_named(concept, self.concepts()).metrics
        kinds = [choice(f"metric for the concept {concept},", name, known) for name in names]
        built = [kind() for kind in dict.fromkeys([*kinds, *(known[name] for name in SIMILARITY)])]
        judges = [metric for metric in built if metric.needs != "image"]
        if not judges:
            raise ConfigError(f"{', '.join(names)} only compare pictures; add a metric that judges the {concept}")
        for metric in built:
            if prepare := getattr(metric, "prepare", None):
                prepare()
        similar = [metric for metric in built if metric.needs == "image"]
        return Scorer(concept, self.reader(reader), judges, similar)

    def executors(self) -> dict[str, type[Executor]]:
        """Executors of studies, by name; ``local`` is not among them."""
        return self._named("executors")

    def trackers(self) -> dict[str, type[Tracker]]:
        """What follows studies while they run, by name."""
        return self._named("trackers")

    def tracker(self, ref: str) -> Tracker:
        """A tracker by name, optionally with settings: ``tensorboard:folder=DIR``; see :meth:`localizer`."""
        return built("tracker", ref, self.trackers(), {})

    def report_sections(self, result: StudyResult) -> list[Section]:
        """The sections that plugins add to the report of a study.

        Raises:
            DamagedError: what a plugin read of the study is not what was written, which is no fault of the plugin.
        """
        from t2iprobe.report.sections import Section

        sections = []
        for plugin, found in self._ask("t2iprobe_report_sections", list, (DamagedError,), result=result):
            sections += [one for one in found if isinstance(one, Section)]
            if other := next((one for one in found if not isinstance(one, Section)), None):
                self._break(plugin, f"t2iprobe_report_sections must return Sections, found {shorten(other)}")
        return sections

    def commands(self) -> dict[str, typer.Typer]:
        """Command groups by name."""
        return self._named("commands")

    def adapter_for(self, pipeline_class: str) -> type[Adapter]:
        """The adapter that serves a pipeline class, by the name of the class.

        Raises:
            ModelError: no adapter serves it.
        """
        adapters = self.adapters()
        serving = next((adapter for adapter in adapters.values() if pipeline_class in adapter.pipelines), None)
        if serving is None:
            known = [name for adapter in adapters.values() for name in adapter.pipelines]
            raise ModelError(
                f"no adapter serves {pipeline_class}: a plugin can add one with t2iprobe_register_adapters, and "
                f"`t2iprobe plugins` shows the plugins that failed{near(pipeline_class, known) if known else ''}"
            )
        return serving

    def adapter_of(self, pipeline: Pipeline) -> type[Adapter]:
        """The adapter of a pipeline: that of its class, of the nearest base class that is served, or one by probing.

        Raises:
            ModelError: as for :meth:`adapter_for`; or probing does not show what an adapter has to know.
        """
        served = {name for adapter in self.adapters().values() for name in adapter.pipelines}
        names = [kind.__name__ for kind in type(pipeline).__mro__]
        known = next((name for name in names if name in served), None)
        if known is not None:
            return self.adapter_for(known)
        if "DiffusionPipeline" not in names:
            return self.adapter_for(names[0])  # refuses it
        from t2iprobe.architectures.auto import probed

        warnings.warn(f"no adapter names {names[0]}: it is tried out, which may take minutes", stacklevel=2)
        return probed(pipeline)

    def load_pipeline(self, ref: str, options: LoadOptions) -> Pipeline:
        """The pipeline that ``ref`` means, from the first plugin that knows it.

        Raises:
            ModelError: no plugin knows it, or the one that does cannot load it.
        """
        serving = {name: one for one in self.adapters().values() for name in (*one.pipelines, *one.upscalers)}
        pipeline = self._first("t2iprobe_load_pipeline", ref=ref, options=options, adapters=serving)
        if pipeline is None:
            raise ModelError(
                f"no plugin knows the model {ref!r}: give the name of an embedded model, "
                "a folder (./name) or a hub id (owner/name)"
            )
        return pipeline

    def load(self, model: Any, *, upscaler: Any = None, family: Family | None = None, **loading: Any) -> Model:
        """A model with its adapter, see :func:`t2iprobe.load`.

        Args:
            model, upscaler: names, or built pipelines.
            family: the adapter of a pipeline where no plugin registers one.
            loading: fields of :class:`LoadOptions`.
        """
        from t2iprobe.registry.loading import load_model

        return load_model(model, upscaler, LoadOptions(**loading), self, family)

    def prompt_set(self, ref: str, *, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Pairs of a registered prompt set, see :func:`t2iprobe.prompt_set`."""
        from t2iprobe.registry.loading import load_pairs

        return load_pairs(ref, limit, seed, concept, self)

    def view(self, path: Path) -> RunView:
        """What the run in a folder shows, made from the folder alone, finished or not.

        Raises:
            ConfigError: there is no run, or one of a kind that no plugin shows.
            DamagedError: what is in the folder is not what such a run leaves.
        """
        from t2iprobe.core.runs.files import understood
        from t2iprobe.core.runs.runfolder import read_manifest
        from t2iprobe.core.runs.status import kind_of
        from t2iprobe.core.study.result import StudyResult
        from t2iprobe.report.studies import study_view

        manifest = read_manifest(path)
        own = {"capture": "captured", "explore": "explored"}  # not of a plugin
        kinds = {
            **self._named("runs"),
            **{kind: hookspecs.view_at(f"t2iprobe.report.{module}:view") for kind, module in own.items()},
        }
        kind = kind_of(manifest)
        if kind not in kinds and "localizer" not in manifest["settings"]:
            raise ConfigError(f"{path} is a run of {kind or 'an unknown command'}, and no plugin here shows such a run")
        with understood(str(path)):
            return kinds[kind](path, self) if kind in kinds else study_view(StudyResult.open(path), self)

    def show(self, path: Path) -> dict[str, Any]:
        """Write what is looked at in a run folder, see :mod:`t2iprobe.report.folder`; returns the answer.

        The answer of an unfinished run, which has a page only, is empty.
        """
        from t2iprobe.report.folder import write

        return write(path, self.view(path)) or {}

    def answer(self, path: Path, needs: Mapping[str, type] | None = None) -> dict[str, Any]:
        """The answer of a finished run; it and the other files are made if they are not there yet.

        Args:
            path: the run folder.
            needs: types of the values that the answer must have, by key.
        """
        from t2iprobe.report.folder import answer_in

        return answer_in(path, needs) or self.show(path)

    def own_prompt_set(self, ref: str) -> str:
        """The prompt set that the model ``ref`` was made for."""
        return planted.own_prompt_set(ref, self.models())

    def _trace(self) -> None:
        """Log every hook call to stderr if the environment variable is set."""
        if os.environ.get(TRACE):
            self._manager.trace.root.setwriter(lambda text: print(text, end="", file=sys.stderr))
            self._manager.enable_tracing()

    def _add_builtin(self, modules: Sequence[str]) -> None:
        own = own_version()
        for module in modules:
            point = EntryPoint(module.split(".")[-2], module, GROUP)
            self._import(PluginRow(point.name, own, "ok"), point, {point.name})

    def _add_installed(self) -> None:
        groups = sorted(group for group in entry_points().groups if group.startswith(f"{PROJECT}.v"))  # of any API
        for point in (one for group in groups for one in entry_points(group=group)):
            row = PluginRow(point.name, point.dist.version if point.dist else "", "ok")
            if point.group != GROUP:
                self._skip(row, f"made for plugin API {point.group.removeprefix(PROJECT + '.')}; this is v{API}")
            else:
                self._import(row, point, {point.name, "all"})

    def _import(self, row: PluginRow, point: EntryPoint, switches: set[str]) -> None:
        """Import and register one plugin, unless it is disabled; errors of its import are recorded, not raised."""
        if self._disabled & switches:
            self._skip(row, f"disabled by {DISABLE}")
            return
        try:
            plugin = importlib.import_module(point.value) if ":" not in point.value else point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module that calls sys.exit, too
            self._rows.append(replace(row, status="broken", reason=f"import failed: {_text(error)}"))
            self._warn(self._rows[-1])
        else:
            self._add(row, plugin)

    def _add(self, row: PluginRow, plugin: object) -> None:
        """Register one plugin, unless its name is taken or one of its hooks has an argument that the contract lacks."""
        if self._manager.has_plugin(row.name):
            self._skip(row, "another plugin has this name")
            return
        self._rows.append(row)
        try:
            self._manager.register(plugin, row.name)
        except pluggy.PluginValidationError as error:
            if self._manager.has_plugin(row.name):  # pluggy before 1.7 leaves it half registered
                self._manager.unregister(name=row.name)
            self._break(row.name, _text(error))
        except ValueError as error:  # the same object under two names
            self._rows.pop()
            self._skip(row, _text(error))
        else:
            if unmarked := unmarked_in(plugin):
                self._break(row.name, f"{', '.join(unmarked)} must be marked with @t2iprobe.hookimpl to be used")

    def _skip(self, row: PluginRow, reason: str) -> None:
        self._rows.append(replace(row, status="skipped", reason=reason))

    def _drop_unfitting(self) -> None:
        """Unregister every plugin with a hook that this version does not know."""
        while True:
            try:
                self._manager.check_pending()
            except pluggy.PluginValidationError as error:
                self._break(self._manager.get_name(error.plugin) or "", _text(error))
                self._manager.unregister(error.plugin)
            else:
                return

    def _break(self, name: str, reason: str) -> None:
        """Mark a loaded plugin as broken and warn of it, unless this is known already."""
        for number, row in enumerate(self._rows):
            if row.name == name and row.status != "skipped" and reason not in row.reason:
                reasons = f"{row.reason}; {reason}" if row.reason else reason
                self._rows[number] = replace(row, status="broken", reason=reasons)
                self._warn(replace(row, reason=reason))

    def _warn(self, row: PluginRow) -> None:
        text = f"the plugin {row.name!r} is broken: {row.reason} (correct it, or leave it out: {DISABLE}={row.name})"
        warnings.warn(text, stacklevel=1)

    def _hooks_of(self, name: str) -> tuple[str, ...]:
        callers = self._manager.get_hookcallers(self._manager.get_plugin(name)) or ()
        return tuple(sorted(caller.name for caller in callers))

    def _ask(
        self, hook: str, returns: type = object, passed: tuple[type[Exception], ...] = (), **arguments: Any
    ) -> Iterator[tuple[str, Any]]:
        """Each plugin's answer to a hook, with the plugin's name.

        A plugin that raises, or whose answer has another type, is marked as broken. Errors of the kinds in ``passed``
        are no fault of the plugin and are raised.
        """
        everyone = self._manager.get_plugins()
        for name, plugin in self._manager.list_name_plugin():
            if hook not in self._hooks_of(name):
                continue
            try:
                answers = self._manager.subset_hook_caller(hook, everyone - {plugin})(**arguments)
            except BaseException as error:
                if isinstance(error, (KeyboardInterrupt, *passed)):
                    raise
                self._break(name, f"{hook} raised {_text(error)}")
                continue
            answer = next(iter(answers), None) if isinstance(answers, list) else answers  # a loader's is no list
            if isinstance(answer, returns):
                yield name, answer
            else:
                self._break(name, f"{hook} must return a {returns.__name__}, found {shorten(answer)}")

    def _first(self, hook: str, **arguments: Any) -> Any:
        """The first answer to a hook, ``None`` if there is none; plugins that were loaded last are asked first.

        A plugin that raises is marked as broken. Errors of ours are answers, as are all errors of bundled plugins.
        """
        everyone = self._manager.get_plugins()
        for one in reversed(self._manager.subset_hook_caller(hook, ()).get_hookimpls()):
            try:
                answer = self._manager.subset_hook_caller(hook, everyone - {one.plugin})(**arguments)
            except (T2IProbeError, KeyboardInterrupt):
                raise
            except BaseException as error:
                if one.plugin_name in self._bundled:
                    raise
                self._break(one.plugin_name, f"{hook} raised {_text(error)}")
            else:
                if answer is not None:
                    return answer
        return None

    def _named(self, kind: str) -> dict[str, Any]:
        """What plugins register of a kind, by name."""
        return {name: thing for name, (_, thing) in self._registered(kind).items()}

    def _registered(self, kind: str) -> dict[str, tuple[str, Any]]:
        """The plugin and the thing of each name; plugins are asked once."""
        if kind not in self._known:
            self._known[kind] = self._collected(kind)
        return self._known[kind]

    def _collected(self, kind: str) -> dict[str, tuple[str, Any]]:
        """What plugins answer now: the plugin and the thing of each name.

        A name belongs to the plugin that was loaded first, bundled ones before others, and so does a pipeline class
        that an adapter serves. A plugin that registers it too, or a thing that lacks a part, is marked as broken, and
        that thing is left out.
        """
        noun, parts, returns = KINDS[kind]
        owners = dict.fromkeys(OWN.get(kind, ()), PROJECT)
        things: dict[str, tuple[str, Any]] = {}
        for plugin, found in self._ask(f"t2iprobe_register_{kind}", returns):
            pairs: Iterable[tuple[Any, Any]]
            pairs = found.items() if returns is dict else [(getattr(thing, "name", None), thing) for thing in found]
            for name, thing in pairs:
                if lacking := lacking_in(name, thing, parts):
                    called = getattr(thing, "__name__", shorten(thing))
                    self._break(plugin, f"the {noun} {called} lacks {', '.join(lacking)}")
                    continue
                claims = [name, *sorted(thing.pipelines)] if kind == "adapters" else [name]
                if taken := next((one for one in claims if one in owners), None):
                    self._break(plugin, f"its {noun} {name!r} is left out, because {owners[taken]!r} has {taken!r}")
                    continue
                owners.update(dict.fromkeys(claims, plugin))
                things[name] = (plugin, thing)
        return things


def own_version() -> str:
    """Version of this package; empty in a source tree that is not installed."""
    try:
        return version(PROJECT)
    except PackageNotFoundError:
        return ""


def _text(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
