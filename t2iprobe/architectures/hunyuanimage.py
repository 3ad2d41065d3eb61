"""HunyuanImage 2.1 (Tencent): FLUX's block plan; Qwen2.5-VL reads the prompt, ByT5 the letters to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
import transformers
from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text
from torch import Tensor, nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ModelError
from t2iprobe.core.shadow import shadowed


class HunyuanImage(ProbedAdapter):
    """Adapter of ``HunyuanImagePipeline``.

    Guidance is a component of the pipeline, and prompts with quoted text have another one. A row is guided as its own
    prompt is, whatever is patched into it or runs beside it.
    """

    name: ClassVar[str] = "hunyuan-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"HunyuanImagePipeline"})
    hub_id: ClassVar[str] = "hunyuanvideo-community/HunyuanImage-2.1-Diffusers"
    denoiser = "transformer"
    text_entry = ("text", "text_2")
    text_kv = ("joint_attn.k", "joint_attn.v")
    guides_apart = True
    prompts = ('a sign that says "A"', 'a red framed sign that says "OPEN"')
    published_facts = MappingProxyType({"vae_scale_factor": 32, "default_sample_size": 64})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.HunyuanImagePipeline:
        """Two blocks of each kind, one token refiner."""
        tokenizer, letters = language.chat_tokenizer(), transformers.ByT5Tokenizer()
        pipeline = diffusers.HunyuanImagePipeline(
            transformer=parts.enliven(
                diffusers.HunyuanImageTransformer2DModel(
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_attention_heads=2,
                    attention_head_dim=16,
                    num_layers=2,
                    num_single_layers=2,
                    num_refiner_layers=1,
                    mlp_ratio=2.0,
                    text_embed_dim=32,
                    text_embed_2_dim=32,
                    rope_axes_dim=(8, 8),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
            vae=diffusers.AutoencoderKLHunyuanImage(
                in_channels=3,
                out_channels=3,
                latent_channels=parts.CHANNELS,
                block_out_channels=(32, 32),
                layers_per_block=1,
                spatial_compression_ratio=2,
                sample_size=2 * parts.LATENT,
                scaling_factor=0.75289,
                downsample_match_channel=False,
                upsample_match_channel=False,
            ).eval(),
            text_encoder=language.qwen2_5_vl(32, 3),
            tokenizer=tokenizer,
            text_encoder_2=parts.t5(32, len(letters)),
            tokenizer_2=letters,
            guider=diffusers.AdaptiveProjectedMixGuidance(),
            ocr_guider=diffusers.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=0),
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 64 for every model
        pipeline.tokenizer_max_length, pipeline.tokenizer_2_max_length = parts.LENGTH, 16
        start = language.start_of_prompt(tokenizer, pipeline.prompt_template_encode)
        pipeline.prompt_template_encode_start_idx = start  # 34 with the published tokenizer
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.HunyuanImageTransformer2DModel(text_embed_2_dim=1472)

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`; ByT5 only reads what is quoted."""
        return {"tokenizer": pipeline.tokenizer_max_length}

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """See :meth:`Adapter.guidance_is_input`: in the distilled model."""
        return bool(pipeline.transformer.config.guidance_embeds)

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """See :meth:`Adapter.guidance`; the call takes no scale of true guidance, see :meth:`prepared`."""
        return {"distilled_guidance_scale" if self.guidance_is_input(pipeline) else "guidance_scale": scale}

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`."""
        if pipeline.guider is None:
            return 1
        return 1 + (arguments.get("guidance_scale", pipeline.guider.guidance_scale) > 1)

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: each row is guided at the scale of this call, and by its own prompt's guider.

        The pipeline takes the guider for quoted text if any prompt of a batch has some.
        """
        scale = arguments.pop("guidance_scale", None)
        guiders = [one for one in (pipeline.guider, pipeline.ocr_guider) if one is not None]
        quoted = [extract_glyph_text(prompt) is not None for prompt in arguments.get("prompt") or ()]
        with ExitStack() as stack:
            for guider in guiders if scale is not None else ():
                stack.enter_context(shadowed(guider, "guidance_scale", max(scale, 1.0)))  # at 1 it is off
            if len(guiders) == 2 and any(quoted) and not all(quoted):
                stack.enter_context(_by_row(guiders[0], guiders[1], quoted))
            yield

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """See :meth:`ProbedAdapter.clock`.

        Raises:
            ModelError: the denoiser also gets the next timestep.
        """
        if pipeline.transformer.config.use_meanflow:
            raise ModelError(f"{self.name}: this model predicts the mean flow between two timesteps, not that at one")
        return timestep


@contextmanager
def _by_row(plain: Any, ocr: Any, quoted: Sequence[bool]) -> Iterator[None]:
    """Let ``ocr``, which the pipeline asks, answer for its rows only and ``plain`` for the others."""
    set_state, prepare, forward = ocr.set_state, ocr.prepare_inputs, ocr.forward

    def both(*args: Any, **kwargs: Any) -> None:
        plain.set_state(*args, **kwargs)
        set_state(*args, **kwargs)

    def prepared(data: Any) -> Any:
        plain.prepare_inputs(data)  # begins its momentum
        return prepare(data)

    def chosen(*predictions: Any, **named: Any) -> Any:
        other, own = plain.forward(*predictions, **named), forward(*predictions, **named)
        which = torch.tensor(quoted, device=own.pred.device).view(-1, 1, 1, 1)
        own.pred = torch.where(which, own.pred, other.pred)
        return own

    with shadowed(ocr, "set_state", both), shadowed(ocr, "prepare_inputs", prepared), shadowed(ocr, "forward", chosen):
        yield
