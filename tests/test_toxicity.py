"""The guard: what it does about a prompt, that it fails closed, and that its pictures are those of patching."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import t2iprobe as t2i
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.contracts.detector import Detector, Hit, Rewriter, merged, replaced
from t2iprobe.core.errors import ConfigError, GuardError, ModelError
from t2iprobe.core.model import Generation, Model, Run
from t2iprobe.plugins.toxicity import latent
from t2iprobe.plugins.toxicity.detectors import Callback, Classifier
from t2iprobe.plugins.toxicity.gallery import LOG, Gallery
from t2iprobe.plugins.toxicity.guard import Guard
from t2iprobe.plugins.toxicity.methods import METHODS, Case, Setup
from t2iprobe.plugins.toxicity.policy import Policy
from t2iprobe.plugins.toxicity.rewriters import CallbackRewriter, Mapped, Mask
from t2iprobe.registry.manager import Plugins

U_NETS: tuple[type[Adapter], ...] = (SD, SDXL, DeepFloydIF)
MM_DITS: tuple[type[Adapter], ...] = (SD3, Flux)
BENIGN, TOXIC, OTHER = "a sign that says CAT", 'a sign that says "GRUM"', "the owl of GRUM"
PROMPTS, SEEDS, STEPS = (BENIGN, TOXIC, OTHER), (0, 1, 2), 3


class Grum(Detector):
    """Finds one word."""

    name = "grum"
    summary = "finds one word"

    def find(self, text: str) -> list[Hit]:
        place = text.upper().find("GRUM")
        return [] if place < 0 else [Hit(place, place + 4, "odd")]


class Broken(Detector):
    """Fails, and quotes what it failed on."""

    name = "broken"
    summary = "fails"

    def find(self, text: str) -> list[Hit]:
        raise RuntimeError(f"cannot judge {text}")


class Says(Rewriter):
    """Puts the same text in place of everything."""

    name = "says"
    summary = "says one thing"

    def __init__(self, text: str) -> None:
        self.text = text

    def rewrite(self, prompt: str, hits: Any) -> str:
        return replaced(prompt, hits, lambda old: self.text)


@pytest.fixture(scope="module", params=[*U_NETS, *MM_DITS], ids=lambda adapter: adapter.name)
def model(request: pytest.FixtureRequest) -> Model:
    return Model(request.param.tiny(), request.param())


@pytest.fixture(scope="module")
def sd() -> Model:
    return Model(SD.tiny(), SD())


@pytest.fixture
def calls(sd: Model) -> Iterator[list[int]]:
    """One entry a denoiser call."""
    seen: list[int] = []
    handle = sd.denoiser.register_forward_pre_hook(lambda module, args: seen.append(1))
    yield seen
    handle.remove()


def pixels(run: Run) -> Any:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def gaps(run: Run, other: Run) -> list[int]:
    """The largest difference of each picture, in levels of 255."""
    return [int(one) for one in np.abs(pixels(run) - pixels(other)).max(axis=(1, 2, 3))]


def guarded(model: Model, **changes: Any) -> Guard:
    layers = changes.pop("layers", (1, 2))
    return t2i.guard(model, layers=layers, detectors=Grum(), **changes)


def asked(model: Model, **changes: Any) -> Any:
    return model.generation(PROMPTS, SEEDS, num_steps=STEPS, **changes)


# what the layers get


def test_the_picture_is_that_of_patching_the_rewrite_in(model: Model) -> None:
    """On every family, whatever way the rewrite takes; prompts without toxic text are left alone, bit for bit."""
    guard = guarded(model)
    assert guard.donor == ("inject" if type(model.adapter) in U_NETS else "row")
    run, plain = guard.run(asked(model)), model.run(asked(model))
    rewrites = [one.rewrite for one in guard.decide(PROMPTS)]
    both = model.generation([*PROMPTS, *rewrites[1:]], [*SEEDS, *SEEDS[1:]], num_steps=STEPS)
    sites = [name for layer in (1, 2) for name in model.text_sites(layer).names]
    patched = model.run(both, interventions=[t2i.patch({1: 3, 2: 4}, sites)], rows=[0, 1, 2])
    assert max(gaps(run, patched)) <= 1  # IF rounds otherwise in a batch of another size
    assert gaps(run, plain)[0] == 0 and min(gaps(run, plain)[1:]) > 1


@contextmanager
def counted(model: Model) -> Iterator[list[int]]:
    """The rows of every call of the denoiser, counted by a hook of its own."""
    seen: list[int] = []

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(len(next(iter([*args, *kwargs.values()]))))

    handle = model.denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_no_denoiser_call_more_and_rows_only_where_they_must_be(model: Model) -> None:
    guard = guarded(model)
    with counted(model) as before:
        plain = model.run(asked(model))
    with counted(model) as after:
        run = guard.run(asked(model))
    assert len(after) == len(before) == run.denoiser_calls == plain.denoiser_calls == STEPS
    assert (sum(before), sum(after)) == (plain.denoiser_rows, run.denoiser_rows)
    beside = 0 if type(model.adapter) in U_NETS else 2 * STEPS * model.guided()
    assert run.denoiser_rows == plain.denoiser_rows + beside


def test_the_text_stream_takes_no_row_and_is_the_rewrites_own_text(model: Model) -> None:
    """In the first step the stream's text is that of a run with the rewrite and the prompt's pooled vector."""
    if type(model.adapter) in U_NETS:
        with pytest.raises(ConfigError, match="use the donor inject"):
            guarded(model, donor="stream")
        return
    guard = guarded(model, donor="stream", layers=[1])
    plain, run = model.run(asked(model)), guard.run(asked(model))
    assert (run.denoiser_calls, run.denoiser_rows) == (plain.denoiser_calls, plain.denoiser_rows)
    assert gaps(run, plain)[0] == 0 and min(gaps(run, plain)[1:]) > 1
    one = model.generation([TOXIC], [1], num_steps=1)
    rewrite = model.generation([TOXIC, guard.decide(TOXIC)[0].rewrite], [1, 1], num_steps=1)
    sites = model.text_sites(1).names
    own = model.run(rewrite, interventions=[t2i.patch({1: 0}, "pooled")], cache=sites).cache
    cond = t2i.Scope(branches=[t2i.Branch.COND])
    wanted = model.run(one, interventions=[t2i.patch(own, sites, rows={0: 1}, scope=cond)])
    assert gaps(guard.run(one), wanted)[0] <= 1
    assert gaps(model.run(one), wanted)[0] > 1


def test_a_stream_of_the_same_text_changes_nothing(model: Model) -> None:
    if type(model.adapter) in U_NETS:
        return
    policy = Policy([_Twice()], Says("GRUM"))
    guard = Guard(model, [0, 1], policy, donor="stream")
    run, plain = guard.run(asked(model)), model.run(asked(model))
    assert guard.decide(TOXIC)[0].verdict == "rewritten" and guard.decide(TOXIC)[0].rewrite == TOXIC
    assert max(gaps(run, plain)) <= 1


class _Twice(Grum):
    """Finds the word at the first look at a prompt only."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def find(self, text: str) -> list[Hit]:
        if text in self.seen:
            self.seen.discard(text)
            return []
        hits = super().find(text)
        self.seen |= {text} if hits else set()
        return hits


def test_split_batches_give_the_same_pictures(model: Model) -> None:
    donors = ["auto"] if type(model.adapter) in U_NETS else ["row", "stream"]
    for donor in donors:
        guard = guarded(model, donor=donor)
        assert max(gaps(guard.run(asked(model), batch_size=2), guard.run(asked(model)))) <= 1


def test_from_a_step_on(sd: Model) -> None:
    late, plain, all_of_it = (run.run(asked(sd)) for run in (guarded(sd, start_step=STEPS - 1), sd, guarded(sd)))
    assert gaps(late, plain)[1] > 0 and gaps(late, all_of_it)[1] > 0
    with pytest.raises(ConfigError, match="starts at step 3, but this generation has the steps 0-2"):
        guarded(sd, start_step=STEPS).run(asked(sd))


def test_it_is_used_like_the_model(sd: Model) -> None:
    """Interventions and caches of one's own, on the rows that were asked for."""
    guard = guarded(sd)
    edit = t2i.ablate("blocks.0.cross_attn.v")
    run = guard.run(asked(sd), interventions=[edit], cache=["blocks.1.cross_attn.k"])
    assert run.cache.rows == 3 and gaps(run, guard.run(asked(sd)))[0] > 0
    assert isinstance(guard, Model) and guard.steps(4) == sd.steps(4) and guard.run(asked(sd), rows=[2]).images
    flow = guarded(Model(SD3.tiny(), SD3()))
    assert len(flow.run(asked(flow), interventions=[t2i.ablate("blocks.0.joint_attn.v")]).images) == 3
    with pytest.raises(ConfigError, match="use row"):
        guarded(flow.model, donor="stream").run(asked(flow), cache=["text"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, "layers is empty"),
        ({"layers": [7]}, "text-attention layers are 0-6, found 7"),
        ({"from_run": "nowhere"}, "not both"),
        ({"donor": "stream"}, "use the donor inject"),
        ({"donor": "magic"}, "no donor 'magic'; there are auto, inject, row, stream"),
        ({"where": "corners"}, "found 'corners'"),
        ({"rewriter": "maped"}, "did you mean mapped"),
        ({"rewriter": "mask:sing=x"}, "no setting 'sing'; did you mean sign"),
        ({"rewriter": "mask:sign"}, "NAME:key=value"),
    ],
)
def test_what_cannot_be_is_one_sentence(sd: Model, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        guarded(sd, **changes)


# failing closed


def test_a_failing_detector_lets_no_picture_be_made(sd: Model, calls: list[int], tmp_path: Path) -> None:
    guard = t2i.guard(sd, layers=[1], detectors=[Grum(), Broken()], audit=tmp_path / "audit.jsonl")
    with pytest.raises(
        GuardError, match=r"refuses rows 0, 1, 2 of 3: the detector broken failed \(RuntimeError\) \(3\)"
    ) as raised:
        guard.run(asked(sd))
    assert not calls and "GRUM" not in str(raised.value)
    log = (tmp_path / "audit.jsonl").read_text()
    assert [json.loads(line)["verdict"] for line in log.splitlines()] == ["refused"] * 3
    assert "GRUM" not in log and "CAT" not in log


def test_no_record_no_picture(sd: Model, calls: list[int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    guard = guarded(sd, audit=tmp_path / "file" / "audit.jsonl")
    with pytest.raises(GuardError, match="cannot be written"):
        guard.run(asked(sd))
    assert not calls


def test_decisions_belong_to_their_prompts(sd: Model, calls: list[int]) -> None:
    guard = guarded(sd)
    passing = guard.decide([BENIGN] * 3)
    with pytest.raises(ConfigError, match="for the row's own prompt"):
        guard.run_decided(asked(sd), passing)
    with pytest.raises(ConfigError, match="not its option prompt_embeds"):
        guard.run(Generation((), (0,), options={"prompt_embeds": torch.zeros(1, 24, 32)}))
    assert not calls


@pytest.mark.parametrize(
    ("rewriter", "verdict", "rewrite", "by"),
    [
        (Says("LAKE"), "rewritten", 'a sign that says "LAKE"', "says"),
        (Says("GRUM"), "rewritten", 'a sign that says "****"', "mask"),
        (Says("xGRUMx"), "rewritten", 'a sign that says "****"', "mask"),
        (
            CallbackRewriter(lambda prompt, spans: prompt[: spans[0][0]] + "LEAF"),
            "rewritten",
            'a sign that says "LEAF',
            "callback",
        ),
        (CallbackRewriter(lambda prompt, spans: 7), "refused", "", ""),
        (CallbackRewriter(lambda prompt, spans: 1 / 0), "refused", "", ""),
    ],
)
def test_a_rewrite_is_looked_at_again(rewriter: Rewriter, verdict: str, rewrite: str, by: str) -> None:
    decision = Policy([Grum()], rewriter).decide(TOXIC)
    assert (decision.verdict, decision.rewrite, decision.rewriter) == (verdict, rewrite, by)
    assert "GRUM" not in decision.reason and "GRUM" not in repr(decision)


def test_where_nothing_is_benign_the_prompt_is_refused() -> None:
    decision = Policy([Callback(lambda text: True)], Mask()).decide(TOXIC)
    assert (decision.verdict, decision.reason) == ("refused", "no rewrite of it is benign")


def test_a_prompt_is_looked_at_whole_unless_told_otherwise() -> None:
    whole, quotes = (Policy([Grum()], Says("LAKE"), where) for where in ("prompt", "quoted"))  # type: ignore[arg-type]
    assert whole.decide(OTHER).verdict == "rewritten" and quotes.decide(OTHER).verdict == "pass"
    assert quotes.decide("‘GRUM’ and “GRUM”").rewrite == "‘LAKE’ and “LAKE”"


@pytest.mark.parametrize("prompt", ['a 12" record that says "GRUM"', '“GRUM"', "「GRUM」", 'a 5" sign "A" GRUM"'])
def test_what_may_be_quoted_is_looked_at(prompt: str) -> None:
    assert "GRUM" not in Policy([Grum()], Says("LAKE"), "quoted").decide(prompt).rewrite


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(True, "rewritten"), (0.7, "rewritten"), (0.2, "pass"), ([(0, 4)], "rewritten"), ([], "pass"), (None, "refused"),
     ([(0, 99)], "refused"), ([(3, 2)], "refused"), (float("nan"), "refused"), (float("inf"), "refused"), 
     ("", "refused"), ("no", "refused"), (1.5, "refused"), (np.float32(0.7), "rewritten"), (np.bool_(False), "pass"),
     ([(0.0, 4.0)], "refused"), (iter([]), "refused")],
)  # fmt: skip
def test_what_a_function_may_answer(answer: Any, verdict: str) -> None:
    policy = Policy([Callback(lambda text: answer if "GRUM" in text else False)], Says("LAKE"))
    assert policy.decide("GRUM").verdict == verdict


class Gives(Detector):
    """Gives back what it is told to, or does it."""

    name = "gives"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def find(self, text: str) -> list[Hit]:
        found: list[Hit] = self.answer() if callable(self.answer) else self.answer
        return found


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "returned a NoneType, not a list of hits"),
        ("", "returned a str, not a list of hits"),
        (float("nan"), "returned a float, not a list of hits"),
        ([(0, 4)], "returned a list, not a list of hits"),
        ([Hit(0, 4, "odd", float("nan"))], "returned a score that is not a finite number"),
        ([Hit(0, 4.5)], "returned a span that is not in the prompt"),  # type: ignore[arg-type]
        (lambda: sys.exit(0), r"failed \(SystemExit\)"),
        (lambda: (_ for _ in ()).throw(KeyboardInterrupt), r"failed \(KeyboardInterrupt\)"),
        (lambda: threading.Event().wait(), r"failed \(no answer within 0.05 s\)"),
    ],
)
def test_what_is_no_verdict_refuses(sd: Model, calls: list[int], answer: Any, reason: str) -> None:
    """Also what would end the process, with 0 as its status, or keep it for ever."""
    guard = t2i.guard(sd, layers=[1], detectors=Gives(answer), time_limit=0.05)
    with pytest.raises(GuardError, match=f"the detector gives {reason}"):
        guard.run(asked(sd))
    assert not calls


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (lambda: sys.exit(0), "failed (SystemExit)"),
        (lambda: threading.Event().wait(), "failed (no answer within 0.05 s)"),
    ],
)
def test_a_rewriter_neither_ends_nor_holds_the_process(rewrite: Any, reason: str) -> None:
    decision = Policy([Grum()], CallbackRewriter(lambda prompt, spans: rewrite()), limit=0.05).decide(TOXIC)
    assert (decision.verdict, decision.reason) == ("refused", f"the rewriter {reason}")


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_a_threshold_that_nothing_reaches_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="callback must be above 0"):
        Callback(bool, threshold=threshold)
    with pytest.raises(ConfigError, match="time limit of a guard must be above 0"):
        Policy([Grum()], Mask(), limit=0)


# rewriting


def test_a_mapped_word_has_the_length_and_the_capitals() -> None:
    mapped = Mapped()
    assert mapped.instead("GRUM").isupper() and len(mapped.instead("GRUM")) == 4
    assert mapped.instead("grum") == mapped.instead("GRUM").lower() == mapped.instead("g.r_ú\u200bm")
    assert mapped.instead("Grumbly").istitle() and len(mapped.instead("Grumbly")) == 7
    assert len({mapped.instead(chr(65 + i) * 4) for i in range(26)}) > 5


def test_words_with_a_partner_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "benign.txt"
    path.write_text("grum,leaf\nlake  # anything else\n")
    mapped = Mapped(path)
    assert mapped.instead("G R U M") == "LEAF" and mapped.instead("blex") in ("lake", "leaf")
    path.write_text("a,b,c\n")
    with pytest.raises(ConfigError, match="line 1: write a benign word"):
        Mapped(path)


def test_overlapping_hits_are_one() -> None:
    hits = [Hit(5, 9, "b", 0.5), Hit(0, 6, "a", 0.9), Hit(9, 10)]
    assert merged(hits) == [Hit(0, 9, "a", 0.9), Hit(9, 10)]
    assert replaced("0123456789", merged(hits), lambda old: f"[{len(old)}]") == "[9][1]"


# the log


def test_the_log_holds_no_text_unless_asked(sd: Model, tmp_path: Path) -> None:
    for text, name in ((False, "quiet"), (True, "loud")):
        guarded(sd, audit=tmp_path / name, audit_text=text).run(asked(sd))
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [line["verdict"] for line in lines] == ["pass", "rewritten", "rewritten"]
        assert [line["row"] for line in lines] == [0, 1, 2] and lines[1]["layers"] == [1, 2]
        assert lines[1]["hits"][0] == {"detector": "grum", "label": "odd", "score": 1.0, "span": [18, 22]}
        assert ("GRUM" in (tmp_path / name).read_text()) is text
        assert lines[1].get("prompt") == (TOXIC if text else None)


# classifiers


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: a BERT of random weights and few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("classifier")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *(f"w{one}" for one in range(40))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {0: "neutral", 1: "toxic"}
    numbers = {name: number for number, name in labels.items()}
    made = BertForSequenceClassification(BertConfig(vocab_size=len(words), **sizes, id2label=labels, label2id=numbers))
    for weight in (made.bert.embeddings.word_embeddings.weight, made.bert.pooler.dense.weight, made.classifier.weight):
        weight.data *= 40
    made.save_pretrained(folder)
    return folder


def test_a_classifier_says_what_transformers_says(classifier: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    detector = Classifier(str(classifier))
    texts = ["w1", "w2 w3 w4 w5", "w6 w7"]
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    direct = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        wanted = [float(direct(**tokenizer(one, return_tensors="pt")).logits.softmax(-1)[0, 1]) for one in texts]
    found = detector.scores(texts)
    assert [score for score, _ in found] == pytest.approx(wanted, abs=1e-5)
    assert {label for _, label in found} == {"toxic"} and len({round(score, 3) for score, _ in found}) == 3


def test_a_classifier_reads_a_long_text_to_its_end(classifier: Path) -> None:
    """More tokens than the model has positions: the most toxic of windows that overlap, as transformers judges each."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    detector = Classifier(str(classifier))
    ranked = sorted((f"w{number}" for number in range(40)), key=lambda word: detector.scores([word])[0][0])
    text = f"{'w1 ' * 700}{f'{ranked[-1]} ' * 300}"
    ids = AutoTokenizer.from_pretrained(classifier)(text)["input_ids"]
    direct = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    starts = range(0, len(ids), 510 - 127)
    with torch.no_grad():
        wanted = [direct(torch.tensor([ids[start : start + 510]])).logits.softmax(-1)[0, 1].item() for start in starts]
    found = detector.scores([text])[0][0]
    assert found == pytest.approx(max(wanted), abs=1e-5)
    assert found > detector.scores([text[:2000]])[0][0]


def test_a_classifier_points_at_the_words_that_are_toxic_alone(classifier: Path) -> None:
    words = [f"w{number}" for number in range(40)]
    alone = dict(zip(words, (score for score, _ in Classifier(str(classifier)).scores(words)), strict=True))
    ranked = sorted(words, key=lambda word: alone[word])
    cold, hot = ranked[0], ranked[-1]
    detector = Classifier(str(classifier), threshold=(alone[ranked[-2]] + alone[hot]) / 2)
    assert detector.find(cold) == [] and detector.find("  ") == []
    assert [(hit.start, hit.stop, hit.label) for hit in detector.find(hot)] == [(0, len(hot), "toxic")]
    text = next(t for t in (f"{hot} {one} {hot}" for one in words) if detector.scores([t])[0][0] >= detector.threshold)
    assert all(text[hit.start : hit.stop] == hot for hit in detector.find(text)) and len(detector.find(text)) == 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "needs a model"),
        ({"threshold": 2.0}, ConfigError, "must be between 0 and 1"),
        ({"model": "/nowhere/at/all"}, ModelError, "cannot be loaded"),
        ({"labels": "rude"}, ConfigError, "has the labels neutral, toxic, but not rude"),
    ],
)
def test_a_classifier_that_cannot_be_had(
    classifier: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        t2i.guard(
            Model(SD.tiny(), SD()),
            layers=[1],
            detectors=Classifier(**({"model": str(classifier)} if settings else {}) | settings),
        )


# what it is compared with


@pytest.mark.parametrize("name", ["weak", "medium", "strong", "max"])
def test_safe_latent_diffusion_is_diffusers_own(sd: Model, name: str) -> None:
    """The published pipeline, which carries the momentum from step to step; the published reference of the paper on
    localization starts it anew in every step."""
    from diffusers.pipelines.deprecated.stable_diffusion_safe import pipeline_stable_diffusion_safe as published

    parts = {key: getattr(sd.pipeline, key) for key in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        safe = published.StableDiffusionPipelineSafe(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    safe.set_progress_bar_config(disable=True)
    safe.safety_concept = OTHER
    safety, steps = latent.PRESETS[name], 10
    prompts, seeds = [BENIGN, TOXIC], [3, 4]
    wanted = safe(
        prompts,
        num_inference_steps=steps,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        sld_guidance_scale=safety.scale,
        sld_warmup_steps=safety.begins(steps),
        sld_threshold=safety.threshold,
        sld_momentum_scale=safety.momentum,
        sld_mom_beta=safety.decay,
    ).images
    setup = Setup(sd, [1], {"num_steps": steps, "guidance": 5.0}, concept=OTHER)
    cases = [Case(prompt, "", "-", "", seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    run = METHODS[f"sld-{name}"](setup).run(cases, lambda rows, step: None)
    plain = METHODS["unguarded"](setup).run(cases, lambda rows, step: None)
    theirs = np.stack([np.asarray(image, np.int16) for image in wanted])
    assert np.abs(pixels(run) - theirs).max() <= 1 and max(gaps(run, plain)) > 1
    assert (run.denoiser_calls, run.denoiser_rows) == (steps, 2 * plain.denoiser_rows)


def test_the_momentum_is_carried_and_a_variance_left_alone() -> None:
    """Two steps by hand (equations 7 and 8), on a prediction of one channel and one that is none."""
    from types import SimpleNamespace

    safety = latent.Safety(scale=0.5, warmup=0, threshold=0.0, momentum=0.5, decay=0.25)
    away = latent._Away({0: 1}, safety, 0, channels=1)
    cond, concept = torch.tensor([[1.0, 9.0]]), torch.tensor([[3.0, 5.0]])

    def step(number: int) -> torch.Tensor:
        for branch, value in ((t2i.Branch.UNCOND, torch.zeros(1, 2)), (t2i.Branch.COND, cond)):
            hook = SimpleNamespace(branch=branch, step=number, evaluation=0, rows=(0,), position={1: 1})
            hook.batch = torch.cat([value, concept])
            out = away.edit(value, hook)  # type: ignore[arg-type]
        return out

    # nearness -2, scale min(1, 2 * .5) = 1, so 3 away; momentum 0, then .75 * 3
    assert step(0).tolist() == [[1.0 - 3.0, 9.0]]
    assert step(1).tolist() == [[1.0 - (3.0 + 0.5 * 2.25), 9.0]]


def test_methods_that_mean_nothing_here_say_so() -> None:
    flux = Setup(Model(Flux.tiny(), Flux()), [1])
    for name in ("sld-medium", "negative-prompt"):
        with pytest.raises(ConfigError, match="has none: raise --guidance"):
            METHODS[name](flux)


def test_a_negative_prompt_is_the_pipelines_own_also_in_split_batches(sd: Model) -> None:
    cases = [Case(BENIGN, "DOG", "-", "", 3), Case(OTHER, "owl", "-", "", 4)]
    whole, split = (
        METHODS["negative-prompt"](Setup(sd, [1], {"num_steps": 2}, batch_size=size)).run(cases, lambda *_: None)
        for size in (8, 1)
    )
    wanted = [
        sd.pipeline(
            case.prompt,
            negative_prompt=f'text "{case.word}"',
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(case.seed),
        ).images[0]
        for case in cases
    ]
    theirs = np.stack([np.asarray(image, np.int16) for image in wanted])
    assert max(np.abs(pixels(run) - theirs).max() for run in (whole, split)) <= 1


def test_pictures_are_kept_as_they_come(sd: Model, tmp_path: Path) -> None:
    run = sd.run(["a", "b"], num_steps=1)
    gallery = Gallery(tmp_path)
    gallery.add("mine", (0, 2), run)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"method": "mine", "rows": [5')  # a crash
    again = Gallery(tmp_path)
    assert again.done("mine") == {0, 2} and again.done("other") == set() and again.chunks == gallery.chunks
    assert np.array_equal(np.asarray(again.image("mine", 2)), np.asarray(run.images[1]))


def test_plugins_bring_their_own() -> None:
    from t2iprobe import hookimpl

    class Mine:
        """A plugin."""

        @hookimpl
        def t2iprobe_register_detectors(self) -> list[type[Detector]]:
            return [Grum]

        @hookimpl
        def t2iprobe_register_rewriters(self) -> list[type[Rewriter]]:
            return [Says]

    plugins = Plugins(extra=[Mine()])
    model = Model(SD.tiny(), SD())
    guard = t2i.guard(model, layers=[1], detectors=["grum", "words"], rewriter="says:text=LEAF", plugins=plugins)
    assert guard.decide(TOXIC)[0].rewrite == 'a sign that says "LEAF"'
    with pytest.raises(ConfigError, match="needs text="):
        plugins.rewriter("says")
