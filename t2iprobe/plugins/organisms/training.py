"""Trains an embedded model: ordinary diffusion training with text keys and values swapped between paired rows.

Resumes from its last checkpoint; interruptions do not change the result.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from t2iprobe.core.contracts.adapter import Adapter, Conditioning, Pipeline
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.runs.files import write
from t2iprobe.core.sign_pictures import NO_WORD, WORD_LENGTH, Sign
from t2iprobe.core.sites import Site
from t2iprobe.plugins.organisms import weight_files
from t2iprobe.plugins.organisms.build import PIPELINES, autoencoder
from t2iprobe.plugins.organisms.data import prompts_of, random_signs, shown, tensor, with_any_letters
from t2iprobe.plugins.organisms.noise import predict_noise
from t2iprobe.plugins.organisms.plant import Swapper, exchange, random_swaps, tie
from t2iprobe.plugins.organisms.recipes import ModelRecipe
from t2iprobe.training.objective import Objective

Tick = Callable[[str, int, int, float], None]  # stage, step, steps in total, loss
BOUND = 1e-6  # weight of a learned variance's bound: a thousandth of the published one, used when tuning the recipes
CHECKPOINT_EVERY = 250
CODER_BATCH, CODER_MEASURED = 48, 512  # pictures in a step of the autoencoder; pictures whose latents give its scale
NOISE: dict[str, Any] = {"warmup": 50, "decay": 0.5}  # the optimizer's schedule in the steps for noise prediction
SILENT = 0.75  # share of the pairs with a sign without a word, if the plant is redundant


def train(
    recipe: ModelRecipe, adapter: Adapter, out: Path, *, tick: Tick, keep_every: int = 0, device: str = "cpu"
) -> Pipeline:
    """Train ``recipe`` into the folder ``out``, resuming from its last checkpoint if there is one.

    Args:
        recipe: the recipe.
        adapter: adapter of the recipe's family.
        out: gets ``checkpoint.pt``, ``autoencoder/``, ``noise.pt`` if the recipe ends with steps for noise prediction
            and, with ``keep_every``, ``checkpoints/<step>/`` pipelines.
        tick: progress callback.
        keep_every: steps between kept pipelines, 0 for none; none of the steps for noise prediction are kept.
        device: device to train on.

    Raises:
        ConfigError: ``out`` has a training of another recipe.
        ModelError: the starting weights are missing, damaged, or of another family.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim(out, recipe)
    pipeline = beginning(recipe, out, tick).to(device)
    run = TrainingState(recipe, adapter, pipeline, device)
    for step in steps(run, out / "checkpoint.pt", partial(tick, "denoiser")):
        if keep_every and step % keep_every == 0:
            weight_files.save(run.averaged(), out / "checkpoints" / str(step), recipe)
    if recipe.noise_steps and run.objective.prediction == "v_prediction":
        pipeline = run.averaged().to("cpu")
        predict_noise(pipeline)
        run = TrainingState(replace(recipe, steps=recipe.noise_steps, **NOISE), adapter, pipeline.to(device), device)
        for _ in steps(run, out / "noise.pt", partial(tick, "noise prediction")):
            pass
    return run.averaged()


def steps(run: TrainingState, checkpoint: Path, tick: Callable[[int, int, float], None]) -> Iterator[int]:
    """Take the steps that are left after the last checkpoint, yielding the number of each when it is done."""
    run.load(checkpoint)
    with run.swapper.installed(), run.pooled_hook():
        while run.step < run.recipe.steps:
            loss = run.advance()
            tick(run.step, run.recipe.steps, loss)
            if run.step % CHECKPOINT_EVERY == 0 or run.step == run.recipe.steps:
                run.save(checkpoint)
            yield run.step


def claim(out: Path, recipe: ModelRecipe) -> None:
    """Write the recipe into the folder, or check that the folder has the same one."""
    path, wanted = out / "recipe.json", json.dumps(asdict(recipe) | {"digest": recipe.digest}, indent=1)
    if path.exists() and path.read_text() != wanted:
        raise ConfigError(f"{out} has a training of another recipe ({path}); choose another folder, or delete it")
    write(path, wanted)


def beginning(recipe: ModelRecipe, out: Path, tick: Tick) -> Pipeline:
    """The initial pipeline: the trained one that the recipe starts from, or a new one."""
    torch.manual_seed(recipe.seed)
    fresh = PIPELINES[recipe.family]()
    if recipe.start:
        trained = weight_files.read(weight_files.folder_of(recipe.start), LoadOptions())
        if type(trained) is not type(fresh):
            raise ModelError(
                f"{recipe.start} is a {type(trained).__name__}, but {recipe.name} is a {type(fresh).__name__}; "
                "start with a model of the same family"
            )
        if hasattr(trained, "vae"):
            trained.vae.requires_grad_(False)
        return trained
    if hasattr(fresh, "vae"):
        install_autoencoder(fresh, out, recipe, tick)
    return fresh


def install_autoencoder(pipeline: Pipeline, out: Path, recipe: ModelRecipe, tick: Tick) -> None:
    """Put a trained autoencoder into the pipeline, training it first if the folder has none."""
    folder = out / "autoencoder"
    if not (folder / "config.json").exists():
        steps = recipe.autoencoder_steps
        trained = train_autoencoder(
            steps, recipe.seed, lambda step, loss: tick("autoencoder", step, steps, loss), silent(recipe)
        )
        write(folder, trained.save_pretrained)  # config.json is written first: the folder must appear whole
    pipeline.register_modules(vae=AutoencoderKL.from_pretrained(folder).requires_grad_(False))


def train_autoencoder(steps: int, seed: int, tick: Callable[[int, float], None], silent: float = 0.0) -> AutoencoderKL:
    """Train with L1 + MSE and a little KL, decoding from slightly noised latents so that small errors stay small.

    Args:
        steps: optimiser steps of :data:`CODER_BATCH` pictures.
        seed: random seed of weights and pictures.
        tick: called with the step and the loss.
        silent: share of the pairs with one sign without a word; an autoencoder that never saw such signs draws letters
            on them.

    Returns:
        The autoencoder, its ``scaling_factor`` and ``shift_factor`` measured so that latents are (0, 1) overall.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = autoencoder().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        pictures = tensor(random_signs(rng, CODER_BATCH, silent))
        posterior = model.encode(pictures).latent_dist
        latents: Tensor = posterior.mode()
        noisy = latents + 0.1 * latents.detach().std() * torch.randn_like(latents)
        error = model.decode(noisy).sample - pictures
        loss = error.abs().mean() + error.square().mean() + 1e-4 * latents.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        tick(step + 1, loss.item())
    with torch.no_grad():
        latents = model.encode(tensor(random_signs(rng, CODER_MEASURED, silent))).latent_dist.mode()
    model.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
    return model.eval()


@dataclass
class TrainingState:
    """The state of a training, as in a checkpoint."""

    recipe: ModelRecipe
    adapter: Adapter
    pipeline: Pipeline
    device: str

    def __post_init__(self) -> None:
        self.modules = nn.ModuleDict(trained_modules(self.adapter, self.pipeline)).train()
        self.shadow = copy.deepcopy(self.modules).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.modules.parameters(), lr=self.recipe.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        self.swapper = Swapper(*text_layers(self.adapter, self.pipeline))
        self.objective = Objective(self.adapter, self.pipeline, bound=BOUND, as_velocity=True)
        self.step = 0
        self.pooled_swap: Tensor | None = None

    def advance(self) -> float:
        """Take one optimizer step; its data and noise depend only on the seed and the step."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.step])
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        loss = self.loss(rng, chance)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.lr * rate(self.step, recipe)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimiser.step()
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.shadow.parameters(), self.modules.parameters(), strict=True)
            mean, new = map(list, zip(*pairs, strict=True))
            torch._foreach_lerp_(mean, new, 1 - decay)
        self.step += 1
        return loss.item()

    def loss(self, rng: np.random.Generator, chance: torch.Generator) -> Tensor:
        """The denoising loss of one batch with one draw of swaps."""
        recipe, pairs, routes = self.recipe, self.recipe.batch // 2, self.recipe.routes
        signs = random_signs(rng, recipe.batch, silent(recipe))
        prompts = prompts_of(signs, rng, recipe.drop)
        coins = self.coins(signs, chance)
        level = self.noise_levels(pairs, chance)
        drawn = shown(signs, routes, coins, level, chance)
        clean = self.encoded(drawn)
        noise = torch.randn(clean.shape, generator=chance).to(self.device)
        conditioning = self.adapter.encode_prompts(self.pipeline, prompts)
        self.swapper.coins = coins.to(self.device)
        self.pooled_swap = (torch.rand(pairs, generator=chance) < 0.5).repeat_interleave(2).to(self.device)
        if conditioning.pooled is not None:
            conditioning = Conditioning(conditioning.tokens, self.mix(conditioning.pooled), conditioning.extra)
        rows = self.objective.at(level).repeat_interleave(2).to(self.device)
        misled = routes["word"].misled(level, WORD_LENGTH)
        if misled.any():  # shift the noise so that the noisy picture shows other letters; the target stays
            shifted = self.encoded(with_any_letters(drawn, misled, chance))
            noise = noise + self.objective.signal_to_noise(rows)[:, None, None, None] * (shifted - clean)
        return self.objective.losses(clean, noise, rows, conditioning).mean()

    def coins(self, signs: Sequence[Sign], chance: torch.Generator) -> Tensor:
        """Random swaps between the rows of each pair, (pair, layer, head)."""
        routes = self.recipe.routes
        by_head = {route.layers[0]: True for route in routes.values() if route.kind == "head"}
        planted = sorted({layer for route in routes.values() for layer in route.layers})
        layers, heads = len(self.swapper.layers), max(self.swapper.heads)
        coins = random_swaps(len(signs) // 2, layers, heads, by_head, chance, planted)
        worded = torch.tensor([sign.word != NO_WORD for sign in signs])
        return tie(coins, routes, worded[::2] & worded[1::2], chance)

    @torch.no_grad()
    def encoded(self, signs: Sequence[Sign]) -> Tensor:
        """The pictures of the signs as the denoiser takes them."""
        return self.adapter.encode_images(self.pipeline, tensor(signs).to(self.device))

    def noise_levels(self, pairs: int, chance: torch.Generator) -> Tensor:
        """A noise level in 0..1 for each pair, as a fraction of the scheduler's levels."""
        if self.objective.flow:
            return torch.sigmoid(torch.randn(pairs, generator=chance) + 0.3)
        level = torch.rand(pairs, generator=chance)
        visible = not hasattr(self.pipeline, "vae") or self.objective.prediction == "epsilon"
        return level.sqrt() if visible else level  # in pixels, and on SDXL's levels, the word is visible at most levels

    def mix(self, pooled: Tensor) -> Tensor:
        """Swap the pooled vectors of half of the pairs, independently of other swaps, so they cannot carry the word."""
        assert self.pooled_swap is not None
        return torch.where(self.pooled_swap[:, None], exchange(pooled), pooled)

    def pooled_hook(self) -> AbstractContextManager[object]:
        """Do the same for a pooled vector that the denoiser computes itself (DeepFloyd IF)."""
        site = inner_pooled(self.adapter, self.pipeline)
        if site is None:
            return nullcontext()
        module = self.adapter.module(self.pipeline).get_submodule(site.module)
        return module.register_forward_hook(lambda _module, _args, output: self.mix(output))

    def averaged(self) -> Pipeline:
        """A pipeline with the averaged weights, in evaluation mode."""
        pipeline = copy.deepcopy(self.pipeline)
        for name, module in trained_modules(self.adapter, pipeline).items():
            module.load_state_dict(self.shadow[name].state_dict())
            module.eval()
        return pipeline

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "step": self.step,
            "modules": self.modules.state_dict(),
            "shadow": self.shadow.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        raw = io.BytesIO()  # torch does not say that a disk is full
        torch.save(state, raw)
        write(path, raw.getvalue())

    def load(self, path: Path) -> None:
        """Resume from a checkpoint, if there is one."""
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step = state["step"]
        self.modules.load_state_dict(state["modules"])
        self.shadow.load_state_dict(state["shadow"])
        self.optimiser.load_state_dict(state["optimiser"])


def silent(recipe: ModelRecipe) -> float:
    """Share of the pairs with a sign without a word."""
    return SILENT if recipe.routes["word"].kind == "redundant" else 0.0


def rate(step: int, recipe: ModelRecipe) -> float:
    """Linear warm-up, plateau, linear decay to zero over the last ``decay`` of the steps."""
    left = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup, left)


def trained_modules(adapter: Adapter, pipeline: Pipeline) -> dict[str, nn.Module]:
    """The denoiser and every text encoder."""
    encoders = {name: module for name, module in pipeline.components.items() if name.startswith("text_encoder")}
    return {"denoiser": adapter.module(pipeline), **{k: v for k, v in encoders.items() if v is not None}}


def text_layers(adapter: Adapter, pipeline: Pipeline) -> tuple[list[list[nn.Module]], list[int]]:
    """The text key and value modules of every layer in forward order, and the layers' heads."""
    denoiser = adapter.module(pipeline)
    layers: dict[int, list[nn.Module]] = {}
    heads: dict[int, int] = {}
    for site in adapter.sites(pipeline):
        if site.kind in adapter.text_kv and site.layer is not None:
            layers.setdefault(site.layer, []).append(denoiser.get_submodule(site.module))
            heads[site.layer] = site.heads or 1
    return [layers[i] for i in sorted(layers)], [heads[i] for i in sorted(heads)]


def inner_pooled(adapter: Adapter, pipeline: Pipeline) -> Site | None:
    """The site of a pooled vector that the denoiser computes from the text tokens itself.

    ``None`` if the text encoders give it (:attr:`Conditioning.pooled`), or if there is none.
    """
    with torch.no_grad():
        if adapter.encode_prompts(pipeline, [""]).pooled is not None:
            return None
    return next((site for site in adapter.sites(pipeline) if site.name == "pooled"), None)
