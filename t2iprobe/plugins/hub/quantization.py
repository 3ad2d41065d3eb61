"""Quantised loading through diffusers and the packages that it knows: :func:`config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import diffusers
import transformers

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice

if TYPE_CHECKING:
    import torch

    from t2iprobe.core.contracts.adapter import Adapter


def _bnb(library: Any, dtype: torch.dtype, bits: int) -> Any:
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if bits == 4 else {}
    return library.BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, **four)


def _torchao(library: Any, name: str) -> Any:
    import torchao.quantization

    return library.TorchAoConfig(getattr(torchao.quantization, name)())


#: the package, and what makes the configuration for diffusers or transformers
WAYS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "bnb-4bit": ("bitsandbytes", lambda library, dtype: _bnb(library, dtype, 4)),
    "bnb-8bit": ("bitsandbytes", lambda library, dtype: _bnb(library, dtype, 8)),
    "torchao-int8": ("torchao", lambda library, dtype: _torchao(library, "Int8WeightOnlyConfig")),
    "torchao-int4": ("torchao", lambda library, dtype: _torchao(library, "Int4WeightOnlyConfig")),
    "torchao-fp8": ("torchao", lambda library, dtype: _torchao(library, "Float8WeightOnlyConfig")),
}


def config(way: str, index: Mapping[str, Any], adapter: type[Adapter] | None, dtype: torch.dtype) -> Any:
    """What diffusers gets in order to quantise the denoiser and T5, which are nearly all of the weights.

    Args:
        way: a key of :data:`WAYS`.
        index: contents of ``model_index.json``.
        adapter: adapter of the pipeline class.
        dtype: precision of the arithmetic.

    Raises:
        ConfigError: there is no such quantisation, its package is not installed, or no adapter names the denoiser.
    """
    if way == "gguf":
        raise ConfigError("gguf is a file format, not a way to quantise: give the .gguf file as the model, and config")
    package, make = choice("quantisation", way, WAYS)
    if find_spec(package) is None:
        raise ConfigError(f"{way} needs a package that is not installed: pip install {package}")
    if adapter is None:
        raise ConfigError(f"{way} needs an adapter that names the denoiser of a {index['_class_name']}")
    encoders = [
        name for name, value in index.items() if isinstance(value, list) and str(value[1]).startswith("T5Encoder")
    ]
    mapping = {adapter.denoiser: make(diffusers, dtype)} | {name: make(transformers, dtype) for name in encoders}
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
