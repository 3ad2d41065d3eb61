"""What Python users call: the functions of ``import t2iprobe``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.registry.manager import Plugins

if TYPE_CHECKING:
    from t2iprobe.core.contracts.detector import Detector, Rewriter
    from t2iprobe.core.load_options import Offload
    from t2iprobe.core.model import Model
    from t2iprobe.core.pairs import Pair
    from t2iprobe.plugins.toxicity.donors import Donor
    from t2iprobe.plugins.toxicity.guard import Guard
    from t2iprobe.plugins.toxicity.policy import Where


def load(
    model: Any,
    *,
    upscaler: Any = None,
    device: str | None = None,
    dtype: str | None = None,
    offload: Offload = "auto",
    device_map: str | None = None,
    resolution: int | None = None,
    variant: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    config: str | None = None,
    without: Sequence[str] = (),
    lora: str | Sequence[str] = (),
    scheduler: str | None = None,
    quantize: str | None = None,
    compile: bool = False,
    plugins: Plugins | None = None,
) -> Model:
    """Load a diffusers pipeline and find its hookable sites.

    Args:
        model: name of an embedded model (``"tiny-sd3"``), a local folder, a ``.safetensors`` or ``.gguf`` file, a hub
            id, or an already built pipeline (also one with a LoRA loaded), which is used as it is.
        upscaler: a super-resolution stage that enlarges every picture (DeepFloyd IF's stage II), given like ``model``;
            it gets the text encoder of ``model`` and is never patched.
        device: torch device; default CUDA where there is one, else the CPU.
        dtype: precision of the weights, by name; default float32 on a CPU, and on a GPU what suits the model.
        offload: what to keep on a GPU: everything (``"none"``), one component (``"model"``), or one layer (``"group"``,
            or ``"sequential"`` with the least main memory); ``"auto"`` is the first that fits.
        device_map: how diffusers spreads the components over several GPUs (``"balanced"``).
        resolution: side of the pictures in pixels for which memory is left free; default the model's own.
        variant: files to prefer, such as ``"fp16"``; default: those of half precision if that is how they are loaded.
        revision, subfolder: of a hub repository.
        config: folder or hub id with the configuration of a single file, and with the components that it lacks.
        without: components to leave out, such as ``text_encoder_3``, the T5 of SD3.
        lora: LoRAs to load, ``REF`` or ``REF:WEIGHT``.
        scheduler: a scheduler of diffusers in place of the checkpoint's, such as ``"DDIM"``.
        quantize: ``"bnb-4bit"``, ``"bnb-8bit"``, ``"torchao-int8"``, ``"torchao-fp8"`` or ``"torchao-int4"``.
        compile: compile the denoiser's blocks with ``torch.compile``, each at its first call; blocks that a run reads
            or edits, or that need gradients, run uncompiled. Also for a built pipeline, which keeps them.
        plugins: where adapters and sources of weights come from; default all that are installed.

    Raises:
        ModelError: it cannot be loaded, does not fit, or no adapter serves its pipeline class.
        ConfigError: options do not go together, or a built pipeline comes with options that decide how it is loaded.
    """
    loading: dict[str, Any] = {
        "device": device, "dtype": dtype, "offload": offload, "device_map": device_map, "resolution": resolution,
        "variant": variant, "revision": revision, "subfolder": subfolder, "config": config, "without": tuple(without),
        "lora": (lora,) if isinstance(lora, str) else tuple(lora), "scheduler": scheduler, "quantize": quantize,
        "compile": compile,
    }  # fmt: skip
    return (plugins or Plugins()).load(model, upscaler=upscaler, **loading)


def prompt_set(
    ref: str, *, limit: int | None = None, seed: int = 0, concept: str = "text", plugins: Plugins | None = None
) -> list[Pair]:
    """The pairs of a registered prompt set.

    Args:
        ref: ``NAME[:ARGUMENT][,key=value…]``, such as ``simple``, ``simple:words=3`` or
            ``glyphcontrol:data/text_prompts/paper,split=val``.
        limit: number of pairs; default all.
        seed: chooses the pairs and the noise.
        concept: what the pairs differ in.

    Raises:
        ConfigError: there is no such set, it has no such option, or it cannot give these pairs.
    """
    return (plugins or Plugins()).prompt_set(ref, limit=limit, seed=seed, concept=concept)


def guard(
    model: Model | str | Any,
    *,
    layers: Sequence[int] | int | str | None = None,
    from_run: str | Path | None = None,
    detectors: str | Detector | Sequence[str | Detector] = "words",
    rewriter: str | Rewriter = "mapped",
    donor: Donor = "auto",
    start_step: int = 0,
    where: Where = "prompt",
    time_limit: float = 30.0,
    audit: str | Path | None = None,
    audit_text: bool = False,
    plugins: Plugins | None = None,
) -> Guard:
    """A guarded model, which is used like the model itself; see :class:`~t2iprobe.plugins.toxicity.guard.Guard`.

    Args:
        model: what :func:`load` gives or takes.
        layers: the layers that write the text: numbers, or text such as ``"6"`` or ``"5-7"``.
        from_run: instead of ``layers``, the run folder of a localization that found them.
        detectors: names, such as ``words`` or ``classifier:model=FOLDER``, or detectors; a hit of any one is enough.
        rewriter: a name, such as ``mapped`` or ``mask``, or a rewriter.
        donor: how the rewrite gets to the layers: ``inject`` (they read its encoded text instead of the prompt's),
            ``row`` (it runs as a row of its own in the same batch, whose text keys and values are patched in) or
            ``stream`` (its text tokens run beside the prompt's through the blocks); ``auto`` chooses by the family.
        start_step: denoising step from which they get it; 0 is at pure noise.
        where: look at the whole ``prompt``, or only at what is ``quoted``.
        time_limit: seconds that a detector or rewriter may take for a prompt, which is refused after that.
        audit: a file that gets one line of JSON for every prompt.
        audit_text: whether that file holds the prompts.
        plugins: where detectors and rewriters come from; default all that are installed.

    Raises:
        ConfigError: there are no such layers, or no such detector, rewriter or donor.
    """
    from t2iprobe.core.model import Model
    from t2iprobe.core.option_groups import LayerOptions
    from t2iprobe.plugins.toxicity.guard import Audit, Guard
    from t2iprobe.plugins.toxicity.policy import Policy

    plugins = plugins or Plugins()
    model = model if isinstance(model, Model) else plugins.load(model)
    listed = [detectors] if isinstance(detectors, str) or not isinstance(detectors, Sequence) else list(detectors)
    found = [plugins.detector(one) if isinstance(one, str) else one for one in listed]
    rewriting = plugins.rewriter(rewriter) if isinstance(rewriter, str) else rewriter
    policy = Policy(found, rewriting, where, time_limit)
    given: dict[str, Any] = {"layers": layers, "from_run": from_run}
    chosen = LayerOptions(**{name: value for name, value in given.items() if value is not None}).chosen_layers(model)
    log = None if audit is None else Audit(Path(audit), audit_text)
    return Guard(model, chosen, policy, donor=donor, start_step=start_step, audit=log)
