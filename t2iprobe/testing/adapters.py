"""The laws of an adapter: functions ``law(adapter, pipeline)`` that raise ``AssertionError`` if the law is broken.

They run a few denoising steps of the given (tiny) pipeline and check tensors and images only; they know no family.
What a method computes is not checked here.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.cache import ActivationCache
from t2iprobe.core.contracts.adapter import Adapter, Pipeline
from t2iprobe.core.interventions import HookContext, Intervention, ablate, interpolate, patch, steer
from t2iprobe.core.model import Model, Run
from t2iprobe.core.scope import Scope
from t2iprobe.core.sites import NAME, Site, Sites
from t2iprobe.testing.conformance import Law, Laws, require
from t2iprobe.testing.watching import entry_by_itself, event, firing_order, first_output, marks

#: quoted, because some pipelines read what is to be drawn as text apart from the rest
SOURCE, TARGET, OTHER = 'a sign that says "DOG"', 'a red "cat" on the sign', 'a red "hat"'
EVEN = 'a sign that says "DOG"', 'a sign that says "CAT"', 'a sign that says "SUN"'  # of equal length
LONG = "a red framed sign that says OPEN"
STEPS = 2
EFFECT = 1e-5  # smallest relative change of the denoiser's output that counts as an effect
LEVELS = 2  # of 255: how much rounding may change a pixel between batch sizes

#: (site name, step, branch)
Address = tuple[str, int, Branch]
Pixels = NDArray[np.int16]


#: the environment variable that names the torch device for :func:`adapter_conformance`; the CPU if it is not set
DEVICE = "T2IPROBE_TEST_DEVICE"

#: the laws of an adapter; each is called with an adapter and a pipeline of its family
ADAPTER_LAWS = Laws()
#: runs of a pipeline, see :func:`_run`
_RUNS: WeakKeyDictionary[Pipeline, dict[tuple[Any, ...], Run]] = WeakKeyDictionary()


def _law(check: Callable[[Model], None]) -> Law:
    """Make a law of a check on a model."""

    @functools.wraps(check)
    def law(adapter: Adapter, pipeline: Pipeline) -> None:
        check(Model(pipeline, adapter))

    return ADAPTER_LAWS(law)


def adapter_conformance(adapter: type[Adapter]) -> type:
    """A pytest class with one method per law, all on one ``adapter.tiny()``: a run leaves a pipeline as it was.

    ``T2IPROBE_TEST_DEVICE=cuda pytest`` runs them on a GPU.
    """

    @functools.cache
    def pipeline() -> Pipeline:
        return adapter.tiny().to(os.environ.get(DEVICE, "cpu"))

    return ADAPTER_LAWS.tests(adapter.__name__, lambda: (adapter(), pipeline()))


def broken_laws(adapter: Adapter, pipeline: Pipeline) -> dict[str, str]:
    """The laws that an adapter breaks on a pipeline, each with what was found, in reading order."""
    broken = {}
    for law in ADAPTER_LAWS:
        try:
            law(adapter, pipeline)
        except AssertionError as error:
            broken[law.__name__] = str(error)
    _RUNS.pop(pipeline, None)
    return broken


@_law
def names_follow_the_grammar(model: Model) -> None:
    """Site names parse and are unique, and the adapter's own patterns name some of them."""
    for site in model.sites:
        require(NAME.fullmatch(site.name) is not None, f"{site.name!r} violates the grammar of site names")
    model.sites.match(*model.adapter.text_entry)
    kinds = {site.kind for site in model.sites}
    missing = [kind for kind in model.adapter.text_kv if kind not in kinds]
    require(not missing, f"text_kv names {', '.join(missing)}, but there are no such sites")


@_law
def reading_changes_nothing(model: Model) -> None:
    """Images with every site cached are bit-identical to images without."""
    plain = _run(model)
    _same_images(_run(model, cache="*"), plain, "caching every site")


@_law
def sites_fire_with_their_axes(model: Model) -> None:
    """Every site fires and has the axes that it declares, and its heads divide its channels."""
    run = _run(model, cache="*")
    for site in model.sites:
        if site.is_pattern or (site.optional and site.name not in run.cache):
            continue
        shape = tuple(_first(run.cache, site).shape)
        require(len(shape) == 1 + len(site.axes), f"{site.name} declares (row, {', '.join(site.axes)}), found {shape}")
        if site.heads is not None:
            fits = site.axes[-1] == "channel" and site.heads > 0 and shape[-1] % site.heads == 0
            require(fits, f"{site.name}: {site.heads} heads do not divide the last axis of {shape}")


@_law
def text_sites_hold_the_text(model: Model) -> None:
    """Sites named after the text are as long as the text; where image tokens share the axis, the stream says so."""
    run = _run(model, cache="*")
    there = [site for site in model.sites if site.name in run.cache]
    entry = model.sites.match(*model.adapter.text_entry)
    parts = [_tokens(run.cache, site) for site in entry if site in there and not site.carried]
    lengths = sorted({sum(some) for count in range(1, len(parts) + 1) for some in combinations(parts, count)})
    lengths += [length + model.adapter.registers for length in lengths]  # each block may read some parts only
    for site in there:
        is_text = _is_text(model.adapter, site)
        allowed = "all", "text" if is_text else "image"
        require(site.stream in allowed, f"{site.name} is {'' if is_text else 'not '}text, found {site.stream!r}")
        if is_text and "token" in site.axes:
            found = _tokens(run.cache, site)
            fits = found in lengths or (model.adapter.ragged and found < max(lengths))  # without the padding
            require(fits, f"{site.name} has {found} tokens, the text entry {lengths}")


@_law
def static_sites_do_not_change(model: Model) -> None:
    """A site declared static has one value at all steps, bit for bit: a store keeps it once."""
    static = {site.name for site in model.sites if site.static}
    cache = _run(model, cache="*").cache
    for name, step, branch in _addresses(model, cache):
        same = name not in static or torch.equal(cache[name, step, branch], cache[name, 0, branch])
        require(same, f"{name} is declared static, but changes between steps 0 and {step} (branch {branch})")


@_law
def donors_from_the_text_are_what_runs(model: Model) -> None:
    """A donor without a row (``Adapter.from_text``) gives what a run of its prompt has, in both branches."""
    static = Sites(site for site in model.sites if site.static and model.adapter.from_text(model.pipeline, site))
    if not static:
        return
    ran = _guided(model, (TARGET,), cache=static).cache
    patched = _guided(model, (SOURCE, TARGET), rows=[0], cache=static, interventions=[patch({0: 1}, static)]).cache
    for name, step, branch in _addresses(model, ran):
        found, expected = patched.fetch(name, step, branch, [0]), ran[name, step, branch]
        fits = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
        require(fits, f"{name}, branch {branch}: from_text does not give what a run of the prompt has there")


@_law
def sites_come_in_forward_order(model: Model) -> None:
    """Sites are listed, and blocks numbered, in the order in which a denoiser call runs them."""
    order, sites = firing_order(model, SOURCE), model.sites.match("*")
    silent = [site.name for site in sites if event(site) not in order]
    require(not silent, f"{', '.join(silent[:3])} did not run")
    ranks = [order[event(site)] for site in sites]
    late = [i for i in range(1, len(ranks)) if ranks[i] < ranks[i - 1]]
    listed = sites.names
    require(not late, f"{late and listed[late[0]]} runs before {late and listed[late[0] - 1]}, but is listed after it")
    numbers = [site.layer for site in model.sites if site.layer is not None]
    require(numbers == sorted(numbers), f"blocks are not numbered in forward order: {list(dict.fromkeys(numbers))}")
    require(set(numbers) == set(range(len(set(numbers)))), f"block numbers have gaps: {sorted(set(numbers))}")


@_law
def writing_back_changes_nothing(model: Model) -> None:
    """Patching every site with what was read there gives the same images, bit for bit."""
    plain = _run(model, cache="*")
    again = _run(model, interventions=[patch(plain.cache, "*")])
    _same_images(again, plain, "writing back what was read")


@_law
def every_site_can_be_written(model: Model) -> None:
    """Noise at any single site changes the denoiser's prediction; one row per site, the last row unchanged."""
    names = [site.name for site in model.sites if not site.carried]
    edits = [Intervention(_noise, (name,), Scope(rows=(row,)), label="noise") for row, name in enumerate(names)]
    generation = model.generation([SOURCE] * (len(names) + 1), num_steps=1)
    with first_output(model) as seen:
        model.run(generation, interventions=edits, batch_size=len(names) + 1)
    output = seen[0].reshape(-1, len(names) + 1, *seen[0].shape[1:])
    change = (output - output[:, -1:]).abs().flatten(2).amax(dim=(0, 2)) / output[:, -1].abs().max()
    dead = [name for name, size in zip(names, change.tolist(), strict=False) if not size > EFFECT]
    require(not dead, f"writing these sites has no effect: {', '.join(dead)}")


@_law
def patterns_are_the_weights_that_run(model: Model) -> None:
    """Reading attention patterns and writing them back changes no image; each is of the tokens that it is named after.

    Other text keys in a layer leave the weights of its image tokens in proportion to each other.
    """
    asked = Sites(site for site in model.sites if site.is_pattern)
    if not asked:
        return
    plain, read = _run(model), _run(model, cache=asked)
    _same_images(read, plain, "reading every pattern")
    _same_images(_run(model, interventions=[patch(read.cache, asked)]), plain, "writing back every pattern")
    for site in asked:
        weights = _first(read.cache, site)
        require(weights.shape[1] == site.heads, f"{site.name} has {weights.shape[1]} heads, not {site.heads}")
    keys, *_ = model.text_sites(model.n_layers // 2)
    text = keys.name.removesuffix("k") + "pattern"
    own = keys.name.replace(keys.kind, "self_attn.pattern")
    noise = Intervention(_noise, (keys.name,), label="noise")
    changed = _run(model, cache=asked, interventions=[noise]).cache
    if text in changed:
        same = torch.equal(changed[text, 0, Branch.COND], read.cache[text, 0, Branch.COND])
        require(not same, f"{text} does not follow the text's keys")
    if text in changed and own in changed and model.sites.named(own).module == model.sites.named(text).module:
        before, after = (cache[own, 0, Branch.COND] for cache in (read.cache, changed))
        before, after = (weights / weights.sum(-1, keepdim=True) for weights in (before, after))
        require(torch.allclose(before, after, atol=1e-4), f"{own} follows the text's keys: it has text tokens")


@_law
def text_entry_carries_the_whole_prompt(model: Model) -> None:
    """Patching the text entry (and the pooled text) from the target's run gives the target's image."""
    entry = model.sites.match(*model.adapter.text_entry)
    pooled = [site for site in model.sites if site.name.split(".")[-1] == "pooled"]
    sites = Sites({site.name: site for site in [*entry, *pooled]}.values())
    source = _run(model)
    target = _run(model, TARGET, cache=sites)
    require(bool((_pixels(source) != _pixels(target)).any()), "two prompts give the same image")
    swapped = _run(model, interventions=[patch(target.cache, sites)])
    _same_images(swapped, target, f"patching {', '.join(sites.names)} from the target's run")


@_law
def scope_leaves_earlier_steps_alone(model: Model) -> None:
    """An edit that starts at the last step leaves everything before it bit-identical, and takes effect there."""
    last, entry = STEPS - 1, [site for site in model.sites.match(*model.adapter.text_entry) if not site.carried]
    plain = _run(model, cache="*").cache
    edited = _run(model, cache="*", interventions=[ablate(entry, scope=Scope(steps=(last,)))]).cache
    for address in _addresses(model, plain):
        if address[1] < last:
            require(torch.equal(plain[address], edited[address]), f"{address} changed before the scope began")
    for site in entry:
        value = edited[site.name, last, Branch.COND]
        require(not value.any(), f"{site.name} should be zero at step {last}, found up to {value.abs().max():.3g}")


@_law
def branches_are_not_swapped(model: Model) -> None:
    """The branch called cond holds what the prompt is without guidance, and editing cond leaves uncond unchanged."""
    entry = Sites(site for site in model.sites.match(*model.adapter.text_entry) if not site.carried)
    run = _guided(model, cache=entry)
    off = next((scale for scale in (0.0, 1.0) if model.guided({"guidance": scale}) == 1), None)
    if off is not None:
        alone = model.run(SOURCE, num_steps=1, guidance=off, cache=entry).cache
        _require_prompt(entry, run, {site.name: _first(alone, site) for site in entry}, "what runs without guidance")
    edits = [ablate(entry, scope=Scope(branches=(Branch.COND,)))]
    edited = _guided(model, cache=entry, interventions=edits)
    for name, step, branch in _addresses(model, run.cache, steps=1):
        if name not in entry.names:  # a mask says how long a prompt is, and others are as long
            continue
        before, after = run.cache[name, step, branch], edited.cache[name, step, branch]
        if branch is Branch.COND:
            require(not after.any(), f"{name}: an edit of cond did not reach it")
        elif branch is Branch.UNCOND:
            require(torch.equal(before, after), f"editing cond of {name} changed uncond")
            same = torch.equal(before, run.cache[name, step, Branch.COND])
            require(not same, f"{name}: cond and uncond hold the same")


@_law
def predicting_is_what_runs(model: Model) -> None:
    """What ``predict`` gives the denoiser of ``encode_prompts`` is what the pipeline gives it."""
    entry = Sites(site for site in model.sites.match(*model.adapter.text_entry) if not site.carried)
    run = _guided(model, cache=entry)
    alone = entry_by_itself(model, entry, run, SOURCE)
    _require_prompt(entry, run, alone, "what encode_prompts and predict make of the prompt")


@_law
def a_batch_of_two_is_two_runs(model: Model) -> None:
    """A short and a long prompt in one batch give the images of two separate runs, up to rounding."""
    both = _pixels(model.run([SOURCE, LONG], seed=(0, 1), num_steps=STEPS))
    for row, run in enumerate((_run(model), _run(model, LONG, seed=1))):
        alone = _pixels(run)[0]
        off = int(np.abs(both[row] - alone).max())
        require(off <= LEVELS, f"row {row} of a batch differs by up to {off} levels of 255 from its own run")


@_law
def equal_seeds_get_equal_noise(model: Model) -> None:
    """Equal prompts and seeds give equal pictures in every row and run, without torch's global generator."""
    before = torch.get_rng_state()
    generation = model.generation([SOURCE, SOURCE, SOURCE], (0, 0, 1), num_steps=STEPS)
    run = model.run(generation)
    require(torch.equal(before, torch.get_rng_state()), "noise comes from torch's global generator")
    first, same, other = _pixels(run)
    require(int(np.abs(first - same).max()) <= LEVELS, "two rows with one prompt and one seed differ")
    require(bool((first != other).any()), "two rows with two seeds are the same")
    _same_images(model.run(generation), run, "a second run")


@_law
def no_edit_depends_on_the_batch(model: Model) -> None:
    """The result of an edited row is the same alone and beside rows with other edits, up to rounding."""
    sites = model.text_sites(model.n_layers // 2)
    source, target, other = EVEN if model.adapter.ragged else (SOURCE, TARGET, OTHER)
    edits = _edits(model, sites, (target, other))
    kinds = [kind for kind in edits for _ in range(2)]  # two rows with two prompts each; the last row is a donor
    prompts = [*(source, target) * len(edits), other]
    seeds = [*(0, 1) * len(edits), 2]  # every edit starts from the same two rows, so that these run once without
    generation = model.generation(prompts, seeds, num_steps=2)
    applied = tuple(edits.values())
    whole = model.run(generation, cache=sites, interventions=applied).cache
    plain = model.run(generation, cache=sites, rows=(0, 1)).cache
    single = [2 * place + place % 2 for place in range(len(edits))]  # of each kind one row, of either prompt in turn
    alone = model.run(generation, cache=sites, interventions=applied, rows=single, batch_size=1).cache
    for site in sites:
        for row, kind in enumerate(kinds):
            beside = whole.fetch(site.name, 1, Branch.COND, [row])[0]
            before = plain.fetch(site.name, 1, Branch.COND, [row % 2])[0]
            far = 1e-3 * float(before.abs().max())
            require(float((beside - before).abs().max()) > far, f"{kind} of {site.name} changes nothing")
            if row in single:
                off = float((beside - alone.fetch(site.name, 1, Branch.COND, [row])[0]).abs().max())
                require(off <= far, f"{kind} of {site.name} differs by {off:.2g} when other rows share the batch")


@_law
def an_upscaler_takes_each_row_by_itself(model: Model) -> None:
    """In families with upscalers: an upscaled row follows its own prompt and noise, whatever runs beside it."""
    if not model.adapter.upscalers:
        return
    upscaler = model.adapter.tiny_upscaler()
    small = _run(model)
    images = torch.from_numpy(_pixels(small)).movedim(-1, 1).float() / 127.5 - 1

    def enlarged(*rows: tuple[str, int]) -> Pixels:
        noise = [torch.Generator().manual_seed(seed) for _, seed in rows]
        texts, settings = {"prompt": [prompt for prompt, _ in rows]}, {"num_inference_steps": 2}
        with torch.no_grad():
            made = model.adapter.upscale(
                model.pipeline, upscaler, images.expand(len(rows), -1, -1, -1), texts, noise, settings
            )
        return np.stack([np.asarray(image, np.int16) for image in made])

    rows = enlarged((SOURCE, 0), (TARGET, 0), (SOURCE, 1))
    require(rows.shape[1] > small.images[0].height, f"an image of {small.images[0].size} is not enlarged")
    require(bool((rows[0] != rows[1]).any()), "an upscaled row does not follow its own prompt")
    require(bool((rows[0] != rows[2]).any()), "an upscaled row does not follow its own noise")
    for row, alone in ((1, enlarged((TARGET, 0))[0]), (2, enlarged((SOURCE, 1))[0])):
        off = int(np.abs(rows[row] - alone).max())
        require(off <= LEVELS, f"upscaled row {row} differs by up to {off} levels of 255 from the row alone")


@_law
def pictures_are_as_large_as_said(model: Model) -> None:
    """Without a requested size a picture has the adapter's; a size that is one multiple wider is drawn as requested."""
    height, width = model.picture_size()
    own = model.run(SOURCE, num_steps=1).images[0]
    require(own.size == (width, height), f"the adapter declares {width} × {height} pixels, drawn were {own.size}")
    wider = width + model.adapter.size_multiple(model.pipeline)
    drawn = model.run(SOURCE, num_steps=1, height=height, width=wider).images[0]
    require(drawn.size == (wider, height), f"{wider} × {height} pixels were requested, drawn were {drawn.size}")


@_law
def calls_and_rows_are_as_many_as_said(model: Model) -> None:
    """The cost of a run is predicted correctly for any guidance."""
    for guidance in (None, 0.0, 1.0, 2.0):
        settings: dict[str, Any] = {"num_steps": 2, "guidance": guidance}
        run = model.run([SOURCE, TARGET], **settings)
        said = model.calls(settings), 2 * model.rows(settings)
        made = run.denoiser_calls, run.denoiser_rows
        require(said == made, f"guidance {guidance}: {said} denoiser calls and rows are predicted, {made} were made")


@_law
def no_hook_survives_an_error(model: Model) -> None:
    """An edit that raises leaves no hook on any module, and restores the scheduler."""
    _run(model)  # transformers leaves hooks of its own at an encoder's first call
    before = marks(model)

    def fail(value: Tensor, hook: HookContext) -> Tensor:
        raise ZeroDivisionError("on purpose")

    try:
        _run(model, cache=("*", "*.pattern"), interventions=[Intervention(fail, (model.sites[-1].name,))])
    except ZeroDivisionError:
        require(marks(model) == before, "hooks or a shadowed scheduler.step are left behind")
    else:
        raise AssertionError(f"an edit of {model.sites[-1].name} never ran")


def _run(model: Model, prompt: str = SOURCE, **more: Any) -> Run:
    """A run of the usual length; laws that are checked on one pipeline share those that nothing edits."""
    if (prompt, more) not in ((SOURCE, {}), (SOURCE, {"cache": "*"})):
        return model.run(prompt, num_steps=STEPS, **more)
    known = _RUNS.setdefault(model.pipeline, {})
    key = (type(model.adapter), model.pipeline.device, *more)
    if key not in known:
        known[key] = model.run(prompt, num_steps=STEPS, **more)
    return known[key]


def _edits(model: Model, sites: Sites, prompts: Sequence[str]) -> dict[str, Intervention]:
    """One edit of every kind, each for two rows of its own; the last row is the donor for those that need one."""
    cache = model.run(prompts, num_steps=2, cache=sites).cache
    kinds: dict[str, Callable[[tuple[int, int]], Intervention]] = {
        "zero ablation": lambda rows: ablate(sites, scope=Scope(rows=rows)),
        "mean ablation": lambda rows: ablate(sites, kind="mean", scope=Scope(rows=rows)),
        "mean ablation by a reference": lambda rows: ablate(
            sites, kind="mean", scope=Scope(rows=rows), reference=cache
        ),
        "resample ablation": lambda rows: ablate(sites, kind="resample", donors=dict.fromkeys(rows, donor)),
        "steering": lambda rows: steer(torch.ones(1), sites, scope=Scope(rows=rows)),
        "a lock-step patch": lambda rows: patch(dict.fromkeys(rows, donor), sites),
        "a cached patch": lambda rows: patch(cache, sites, rows=dict.fromkeys(rows, 1)),
        "interpolation in lock-step": lambda rows: interpolate(dict.fromkeys(rows, donor), sites, 0.5),
        "cached interpolation": lambda rows: interpolate(cache, sites, 0.5, rows=dict.fromkeys(rows, 1)),
    }
    donor = 2 * len(kinds)
    return {kind: make((2 * place, 2 * place + 1)) for place, (kind, make) in enumerate(kinds.items())}


def _guided(model: Model, prompts: Sequence[str] = (SOURCE,), **more: Any) -> Run:
    """A run with a negative prompt, where the pipeline takes one; distilled families guide only on request."""
    takes, options = inspect.signature(type(model.pipeline).__call__).parameters, dict[str, Any]()
    if "negative_prompt" in takes and model.guided({"guidance": 2.0}) > 1:
        options["negative_prompt"] = ["blurred"] * len(prompts)
    return model.run(prompts, num_steps=1, guidance=2.0, options=options, **more)


def _pixels(run: Run) -> Pixels:
    """(row, y, x, rgb)"""
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def _same_images(run: Run, other: Run, what: str) -> None:
    off = np.abs(_pixels(run) - _pixels(other))
    require(not off.any(), f"{what}: {(off > 0).mean():.1%} of the image differs, by up to {off.max()} levels of 255")


def _addresses(model: Model, cache: ActivationCache, steps: int = STEPS) -> list[Address]:
    every = ((site.name, step, branch) for site in model.sites for step in range(steps) for branch in Branch)
    return [address for address in every if address in cache]


def _first(cache: ActivationCache, site: Site) -> Tensor:
    return cache[site.name, 0, Branch.COND]


def _tokens(cache: ActivationCache, site: Site) -> int:
    value = _first(cache, site)
    axis = 1 + site.axes.index("token")
    require(axis < value.ndim, f"{site.name} has no token axis in {tuple(value.shape)}")
    return int(value.shape[axis])


def _is_text(adapter: Adapter, site: Site) -> bool:
    part, _, port = site.kind.partition(".")
    return (
        site.carried
        or site.kind in adapter.text_kv
        or part in ("text", "text_mlp")
        or port == "text"
        or site.name in adapter.text_entry
    )


def _noise(value: Tensor, hook: HookContext) -> Tensor:
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    return value + 3 * (value.std() + 0.1) * noise


def _require_prompt(entry: Sites, run: Run, expected: Mapping[str, Tensor], what: str) -> None:
    """Check that the text entry of ``run``, branch cond, is as ``expected``, which is ``what``."""
    for site in entry:
        cond, own = _first(run.cache, site), expected[site.name]
        fits = cond.shape == own.shape and torch.allclose(cond, own.to(cond), rtol=1e-3, atol=1e-4)
        require(fits, f"{site.name}, branch cond, is not {what}")
