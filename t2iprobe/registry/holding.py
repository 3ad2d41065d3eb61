"""Plugins with an already loaded model: :class:`HoldingPlugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2iprobe.registry.manager import Plugins

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Pipeline
    from t2iprobe.core.model import Model
    from t2iprobe.core.options import LoadOptions


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

    def load(self, model: Any, *, upscaler: Any = None, device: str | None = None, dtype: str | None = None) -> Model:
        """See :meth:`Plugins.load`; the held model keeps its device and dtype."""
        if model is self._model.pipeline or model == self._ref:
            return self._model
        return super().load(model, upscaler=upscaler, device=device, dtype=dtype)

    def load_pipeline(self, ref: str, options: LoadOptions) -> Pipeline:
        """See :meth:`Plugins.load_pipeline`."""
        return self._model.pipeline if ref == self._ref else super().load_pipeline(ref, options)
