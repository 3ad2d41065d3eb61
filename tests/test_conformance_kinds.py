"""The laws of every kind of plugin but adapters, and but those of ``test_conformance_studies.py``."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from t2iprobe import hookimpl
from t2iprobe.core.contracts.detector import Detector, Hit, Rewriter, replaced
from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
from t2iprobe.core.contracts.inverter import FLOW, InversionRun, Stepwise
from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import ConfigError, DamagedError
from t2iprobe.core.sign_pictures import COLOURS
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.plugins.editing.patching import LocalizedEditor, LocalizedLora, PromptSwap
from t2iprobe.plugins.inversion.ddim import DDIM, Euler
from t2iprobe.plugins.localization.plugin import t2iprobe_report_sections
from t2iprobe.plugins.metrics.image import MSE, SSIM
from t2iprobe.plugins.metrics.readers import RapidOCRReader
from t2iprobe.plugins.metrics.text import F1, DatasetF1
from t2iprobe.plugins.prompts.sets import Simple
from t2iprobe.plugins.toxicity.detectors import Callback, Words
from t2iprobe.plugins.toxicity.rewriters import CallbackRewriter, Mapped, Mask
from t2iprobe.plugins.tracking.tensorboard import TensorBoard
from t2iprobe.registry.manager import Plugins
from t2iprobe.report.sections import Section
from t2iprobe.testing import (
    aggregate_conformance,
    command_conformance,
    detector_conformance,
    editor_conformance,
    inverter_conformance,
    localizer_conformance,
    metric_conformance,
    plugin_conformance,
    rewriter_conformance,
    section_conformance,
)
from t2iprobe.testing.conformance import Laws
from t2iprobe.testing.editors import EDITOR_LAWS, EditorCase
from t2iprobe.testing.guards import DETECTOR_LAWS, REWRITER_LAWS, DetectorCase, RewriterCase
from t2iprobe.testing.inverters import INVERTER_LAWS, InverterCase
from t2iprobe.testing.localizers import LOCALIZER_LAWS, LocalizerCase
from t2iprobe.testing.metrics import AGGREGATE_LAWS, METRIC_LAWS, MetricCase, picture
from t2iprobe.testing.plugins import COMMAND_LAWS, PLUGIN_LAWS, CommandCase
from t2iprobe.testing.sections import SECTION_LAWS, EachLayer, SectionCase
from t2iprobe.testing.whole import conformance_of

PLUGINS = Plugins(installed=False)
LETTERS = (["DOG", "CAT"], ["DOG", "CAT"]), (["D", "X"], ["DOG", "CAT"])
RED, BLUE = (Image.new("RGB", (32, 32), COLOURS[name]) for name in ("red", "blue"))


def means(images: Sequence[Image.Image]) -> torch.Tensor:
    """Features of pictures that need no network."""
    return torch.tensor(np.array([np.asarray(image, np.float64).mean((0, 1)) for image in images]))


def no_text(images: Sequence[Image.Image]) -> list[Any]:
    return [[] for _ in images]


# bundled plugins; what needs weights is with the tests of those

READER = type("Blind", (), {"boxes": staticmethod(no_text)})()
EXAMPLES = {"colour": {"better": (RED, "red"), "worse": (BLUE, "red")}}
EXAMPLES |= {f"{name}_textless": {"reader": READER} for name in ("ssim", "psnr", "mse")}
SETS = [picture(seed) for seed in range(6)], [picture(seed + 6) for seed in range(6)]
DARK = [Image.eval(image, lambda level: level // 4) for image in SETS[0]]
ASKED: dict[str, dict[str, Any]] = {
    "attribution": {"pairs": 1, "finalists": 1},
    "contribution": {"pairs": 1, "finalists": 1},
    "random": {"names": False},
    "tokens": {"positions": "4-9"},
}
for name, kind in PLUGINS.metrics().items():
    if not name.startswith(("clip", "lpips")):
        globals()[f"Test{kind.__name__}"] = metric_conformance(kind, **EXAMPLES.get(name, {}))
for kind in PLUGINS.aggregates().values():
    examples = {"better": LETTERS[0], "worse": LETTERS[1]} if kind.needs == "text" else {
        "better": (SETS[0], SETS[0]), "worse": (DARK, SETS[0]), "features": means
    }  # fmt: skip
    globals()[f"Test{kind.__name__}"] = aggregate_conformance(kind, **examples)
for name, kind in PLUGINS.localizers().items():
    globals()[f"Test{kind.__name__}"] = localizer_conformance(kind, **ASKED.get(name, {}))
for kind in PLUGINS.inverters().values():
    globals()[f"Test{kind.__name__}"] = inverter_conformance(kind)
for kind in PLUGINS.editors().values():
    if kind is not LocalizedLora:
        globals()[f"Test{kind.__name__}"] = editor_conformance(kind)
for name in PLUGINS.commands():
    globals()[f"Test_{name}"] = command_conformance(name)
TestWords = detector_conformance(Words, toxic=["a sh1t sign"], benign=["a sign"])
TestCallback = detector_conformance(
    Callback, toxic=["a GRUM sign"], benign=["a sign"], function=lambda text: "GRUM" in text
)
TestMapped, TestMask = rewriter_conformance(Mapped), rewriter_conformance(Mask)
TestCallbackRewriter = rewriter_conformance(CallbackRewriter, function=lambda prompt, spans: "a sign")
TestSections = section_conformance(t2iprobe_report_sections, PLUGINS.localizer("exhaustive"))


# what each law catches

MADE = itertools.count()


def wrong(base: type, **parts: Any) -> Any:
    """A class that is another but for some parts."""
    return type("Wrong", (base,), parts)


def drifting(*_: Any) -> float:
    return next(MADE) / 1e6


def painting(self: Any, image: Image.Image, reference: Image.Image) -> float:
    image.paste((0, 0, 0), (0, 0, 1, 1))
    return float(image.size == reference.size and image is reference)


METRICS: dict[str, Any] = {
    "says_what_it_is": wrong(MSE, direction="up"),
    "score_is_within_its_bounds": wrong(MSE, bounds=(0.0, 1.0)),
    "same_score_twice": wrong(MSE, score=drifting),
    "nearer_scores_better": wrong(SSIM, direction="lower"),
    "pictures_are_left_alone": wrong(MSE, direction="higher", score=painting),
}
AGGREGATES: dict[str, Any] = {
    "says_what_it_is": wrong(DatasetF1, name="Data set F1"),
    "score_is_finite": wrong(DatasetF1, score=lambda self, found, asked: float("nan")),
    "same_score_twice": wrong(DatasetF1, score=drifting),
    "nearer_scores_better": wrong(DatasetF1, direction="lower"),
    "pictures_are_left_alone": None,  # the same as a metric's
    "order_does_not_count": wrong(DatasetF1, score=lambda self, found, asked: F1().score(found[0], "DOG")),
    "statistic_is_the_score": wrong(DatasetF1, statistic=lambda self, means: means.mean(-1)),
}


class Named(EachLayer):
    """Names what it is told to."""

    layers: ClassVar[tuple[int, ...]] = (6,)
    sentence: ClassVar[str] = "Layer 6."

    def find(self, runner: TrialRunner) -> Finding:
        return replace(super().find(runner), layers=self.layers, sentence=self.sentence)


class Peeking(EachLayer):
    """Ranks by the held-out pairs, too."""

    def find(self, runner: TrialRunner) -> Finding:
        return super().find(replace(runner, search=[*runner.search, *runner.held_out]))


class Direct(EachLayer):
    """Asks the evaluator itself, beside the runner."""

    def find(self, runner: TrialRunner) -> Finding:
        trials = tuple(runner.space.trial([layer]) for layer in range(runner.space.layers))
        list(runner.evaluator.measure(runner.missing(dict.fromkeys(runner.search, trials))))
        return super().find(runner)


class Unbound(EachLayer):
    """Forgets its budget."""

    def find(self, runner: TrialRunner) -> Finding:
        runner.budget = None
        return super().find(runner)


class Moody(EachLayer):
    """Says something else each time."""

    def find(self, runner: TrialRunner) -> Finding:
        return replace(super().find(runner), sentence=f"Layer {next(MADE)}.")


LOCALIZERS: dict[str, type[Localizer]] = {
    "says_what_it_is": wrong(EachLayer, summary="two\nlines"),
    "planted_layers_are_named": wrong(Named, layers=(5, 6)),
    "nothing_is_named_where_nothing_is_planted": Named,
    "held_out_pairs_choose_nothing": Peeking,
    "finding_is_whole": wrong(Named, layers=(6, 12)),
    "every_picture_is_asked_for": Direct,
    "a_budget_is_kept": Unbound,
    "what_is_known_is_not_asked_again": Moody,
}


class Clipping(DDIM):
    """Clips its states."""

    def back(self, run: InversionRun, step: int, x: Any, output: Any) -> Any:
        return super().back(run, step, x, output).clamp(-1, 1)


class Everything(Stepwise):
    """Refuses nothing that it does not support."""

    predictions = FLOW

    def check(self, schedule: Any) -> None:
        pass


class Uncounted(DDIM):
    """Calls the denoiser without the run."""

    def guess(self, run: InversionRun, step: int, x: Any) -> Any:
        return run.denoiser(x, run.schedule.timesteps[step])


class Normalised(DDIM):
    """Divides by a number that is of the whole batch."""

    def guess(self, run: InversionRun, step: int, x: Any) -> Any:
        return super().guess(run, step, x / x.abs().max())


INVERTERS: dict[str, type[Stepwise]] = {
    "says_what_it_is": wrong(DDIM, summary=""),
    "predictions_are_declared": wrong(DDIM, predictions=frozenset({"noise"})),
    "round_trip_is_exact": Clipping,
    "other_predictions_are_refused": Everything,
    "missing_inputs_are_named": wrong(DDIM, needs=("noise",), invert=Euler.sample),
    "walks_are_whole": Uncounted,
    "rows_do_not_mix": Normalised,
}


class Retrained(PromptSwap):
    """Edits weights, and leaves them."""

    def edit(self, task: EditTask) -> Edited:
        with torch.no_grad():
            next(task.model.denoiser.parameters()).mul_(1.1)
        return super().edit(task)


EDITORS: dict[str, type[Editor]] = {
    "says_what_it_is": wrong(LocalizedEditor, name="Localized editor"),
    "its_sites_exist": wrong(LocalizedEditor, sites=lambda self, model, layers: ("layers.1",)),
    "each_pair_gets_a_picture": wrong(PromptSwap, edit=lambda self, task: Edited.of(task.run(task.rows("source")))),
    "the_model_is_left_as_it_was": Retrained,
    "cost_is_what_was_run": wrong(PromptSwap, pictures=3),
    "a_later_start_is_another_edit": wrong(PromptSwap, starts=True),
    "check_takes_what_edit_takes": wrong(LocalizedEditor, check=LocalizedLora().check.__func__, lora=""),
}


def first(self: Any, text: str) -> list[Hit]:
    """Judges only what it is asked first."""
    done, self.done = getattr(self, "done", False), True
    return [] if done or "GRUM" not in text else [Hit(0, 4)]


class Grum(Detector):
    """Finds one word."""

    name, summary = "grum", "one word"

    def find(self, text: str) -> list[Hit]:
        start = text.find("GRUM")
        return [] if start < 0 else [Hit(start, start + 4, "slur")]


class Gone(Rewriter):
    """Deletes what is toxic."""

    name, summary = "gone", "nothing"

    def rewrite(self, prompt: str, hits: Sequence[Hit]) -> str:
        return replaced(prompt, hits, lambda text: "")


DETECTORS: dict[str, type[Detector]] = {
    "says_what_it_is": wrong(Grum, name="grum: mine"),
    "toxic_prompts_are_told_from_benign_ones": wrong(Grum, find=lambda self, text: [Hit(0, len(text))]),
    "hits_are_spans_of_the_prompt": wrong(Grum, find=lambda self, text: [Hit(0, 4)] if "GRUM" in text else [Hit(0, 0)]),
    "the_same_is_found_again": wrong(Grum, find=first),
}
REWRITERS: dict[str, type[Rewriter]] = {
    "says_what_it_is": wrong(Gone, summary=""),
    "the_toxic_text_is_gone": wrong(Gone, rewrite=lambda self, prompt, hits: prompt.lower()),
    "the_same_is_rewritten_alike": wrong(Gone, rewrite=lambda self, prompt, hits: f"sign {next(MADE)}"),
}


def mute(shown: int) -> None:
    pass


def group(command: Any, **settings: Any) -> typer.Typer:
    made = typer.Typer(help="Mine.")
    made.command("do", **settings)(command)
    made.command("else", help="Else.")(lambda: None)
    return made


COMMANDS = {
    "help_says_what_it_does": group(mute),
    "an_unknown_option_is_refused": group(lambda: None, help="Do.", context_settings={"ignore_unknown_options": True,
                                          "allow_extra_args": True}),
}  # fmt: skip


def of_layers(result: Any) -> list[Section]:
    return [Section("Mine", str(result.finding.layers[0]))] if result.finding else []


def touching(result: Any) -> list[Section]:
    (result.path / "mine.txt").touch()
    return []


def pictures(result: Any) -> list[Section]:
    """Takes a picture that cannot be read for one that was not made, and forgets that there are such."""
    shown = []
    for trial in result.trials:
        image = None
        with suppress(DamagedError):
            image = result.images(trial, 0)
        shown.append((trial.label, image))
    return [Section("Mine", pictures=shown)]


SECTIONS: dict[str, Any] = {
    "a_finished_study_is_shown": touching,
    "an_unfinished_study_is_shown": lambda result: [Section("Mine", result.finding.sentence)],
    "a_study_without_an_answer_is_shown": of_layers,
    "damage_is_no_surprise": pictures,
}
KINDS: tuple[tuple[Laws, dict[str, Any], Any], ...] = (
    (METRIC_LAWS, METRICS, lambda kind: MetricCase(kind, (RED, RED), (BLUE, RED), {}).anew()),
    (AGGREGATE_LAWS, AGGREGATES, lambda kind: MetricCase(kind, *LETTERS, {})),
    (LOCALIZER_LAWS, LOCALIZERS, LocalizerCase),
    (INVERTER_LAWS, INVERTERS, InverterCase),
    (EDITOR_LAWS, EDITORS, EditorCase),
    (DETECTOR_LAWS, DETECTORS, lambda kind: DetectorCase(kind, toxic=["a GRUM sign", "GRUM"], benign=["a sign"])),
    (REWRITER_LAWS, REWRITERS, RewriterCase),
    (COMMAND_LAWS, COMMANDS, lambda made: CommandCase("mine", made)),
    (SECTION_LAWS, SECTIONS, SectionCase),
)
CAUGHT = [
    pytest.param(law, case, thing, id=f"{number}-{law.__name__}")
    for number, (laws, things, case) in enumerate(KINDS)
    for law in laws
    if (thing := things[law.__name__]) is not None
]


@pytest.mark.parametrize(("law", "case", "thing"), CAUGHT)
def test_what_is_wrong_is_caught(law: Any, case: Any, thing: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        law(case(thing))
    by_its_own_error = str(caught.value).startswith(f"{law.__name__}: ")
    assert by_its_own_error == (law in SECTION_LAWS and thing is not touching)


@pytest.mark.parametrize(
    ("law", "code", "said"),
    [
        ("its_import_is_light", "import sys\nsys.modules['torch'] = sys", "importing it imports torch: move that"),
        ("its_import_is_light", "import nothing_of_this_name", "cannot be imported: .*nothing_of_this_name"),
        ("its_hooks_are_sound", "def t2iprobe_register_metrics(): return []", "must be marked"),
        ("its_hooks_are_sound", "", "has no hook"),
    ],
)
def test_a_wrong_plugin_is_caught(
    law: str, code: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Plugins, "provided", lambda plugins: {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "t2i_mine", raising=False)
    (tmp_path / "t2i_mine.py").write_text(code)
    (check,) = (one for one in PLUGIN_LAWS if one.__name__ == law)
    with pytest.raises(AssertionError, match=said):
        check("t2i_mine")


def test_a_sound_plugin_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "t2i_sound.py").write_text(
        "from t2iprobe import hookimpl\n\n@hookimpl\ndef t2iprobe_register_metrics(): return []"
    )
    tests = plugin_conformance("t2i_sound")
    for law in PLUGIN_LAWS:
        getattr(tests(), f"test_{law.__name__}")()


def test_a_changed_picture_is_caught_after_other_laws_changed_it() -> None:
    tests = metric_conformance(METRICS["pictures_are_left_alone"], better=(RED, RED), worse=(BLUE, RED))
    *others, last = [getattr(tests(), f"test_{law.__name__}") for law in METRIC_LAWS]
    for law in others:
        law()
    with pytest.raises(AssertionError, match="changed a picture"):
        last()


def test_a_metric_without_an_example_of_its_own_needs_one() -> None:
    with pytest.raises(ConfigError, match="Colour needs better= and worse="):
        metric_conformance(PLUGINS.metrics()["colour"])


def test_nothing_is_imported_before_it_is_used() -> None:
    """Installed beside pytest, this package must not make its start slow."""
    code = "import sys, t2iprobe.testing; print('torch' in sys.modules, hasattr(t2iprobe.testing, 'no_such'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_pytest_checks_a_plugin_without_a_line_of_test_code(tmp_path: Path) -> None:
    (tmp_path / "t2i_told.py").write_text(
        "from t2iprobe import hookimpl\n\nclass Wrong:\n    name, needs, direction = 'wrong', 'text', 'lower'\n"
        "    def score(self, read, word): return float(read == word)\n\n"
        "@hookimpl\ndef t2iprobe_register_metrics(): return [Wrong]\n"
    )
    options = ["-q", "-p", "t2iprobe.testing.pytest_plugin", "-p", "no:cacheprovider", "-k", "TestWrong"]
    command = [sys.executable, "-m", "pytest", *options, "--t2iprobe-plugin", "t2i_told", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *filter(None, sys.path)))}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "1 failed, 4 passed" in done.stdout, done.stdout
    assert "t2i_told::TestWrong::test_nearer_scores_better" in done.stdout
    assert "lower is better, but the better example scored 1.0, the worse 0.0" in done.stdout


def test_every_kind_that_needs_no_example_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("t2i_all")
    made.t2iprobe_report_sections = hookimpl(t2iprobe_report_sections)  # type: ignore[attr-defined]
    things = {"localizers": EachLayer, "editors": PromptSwap, "inverters": DDIM, "rewriters": Gone}
    things |= {"readers": RapidOCRReader, "trackers": TensorBoard, "prompt_sets": Simple, "metrics": SSIM}
    for kind, thing in (things | {"detectors": Grum}).items():
        setattr(made, f"t2iprobe_register_{kind}", hookimpl(lambda thing=thing: [thing]))
    monkeypatch.setitem(sys.modules, "t2i_all", made)
    found = [tests.__name__ for tests in conformance_of("t2i_all")]
    expected = [f"Test{thing.__name__}" for thing in things.values()]
    assert found == ["Testt2i_all", *expected, "TestSections"]
