"""Pipelines whose class no adapter names: what probing found is checked by the laws before it is used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from t2iprobe.architectures.auto import ADVICE, AutoAdapter
from t2iprobe.core.contracts.adapter import Adapter, Pipeline
from t2iprobe.core.errors import ModelError
from t2iprobe.core.model import Model
from t2iprobe.core.names import counted
from t2iprobe.core.shadow import shadowed

#: laws that only some uses of a model rely on, and what is refused if they are broken
PARTS = {
    "predicting_is_what_runs": "training, inversion and editing of photos are refused",
    "text_entry_carries_the_whole_prompt": "the prompt enters elsewhere, too, so there is no site `text`",
    "pictures_are_as_large_as_said": "leave the size of the pictures as it is",
}


def laws_broken_by(model: Model) -> dict[str, str]:
    """The laws that a model's adapter breaks, each with what was found.

    One that was found by probing is checked on small pictures, with three blocks of each kind where the denoiser runs
    with so few.
    """
    from t2iprobe.testing.adapters import broken_laws

    if not isinstance(model.adapter, AutoAdapter):
        return broken_laws(model.adapter, model.pipeline)
    smaller = model.adapter.smaller()
    quiet = shadowed(model.pipeline, "_progress_bar_config", {"disable": True})
    with quiet, few_blocks(smaller, model.pipeline):
        return broken_laws(smaller, model.pipeline)


def check_probed(model: Model) -> None:
    """Check an adapter that was found by probing, and refuse what relies on a broken law.

    Raises:
        ModelError: everything does.
    """
    from t2iprobe.testing.adapters import ADAPTER_LAWS

    adapter = model.adapter
    assert isinstance(adapter, AutoAdapter)
    kind = type(model.pipeline).__name__
    broken = laws_broken_by(model)
    first = next((law for law in broken if law not in PARTS), None)
    if first is not None:
        others = len(broken.keys() - PARTS.keys()) - 1
        more = f" and {counted(others, 'other law')}" if others else ""
        raise ModelError(
            f"no adapter serves {kind}, and what was found by probing it breaks {first} ({broken[first]}){more}, on "
            f"which every command relies: `t2iprobe check-adapter --model REF` lists them; {ADVICE}"
        )
    if (law := "predicting_is_what_runs") in broken:
        adapter.doubt = broken[law] = adapter.doubt or broken[law]
    adapter.whole_entry = "text_entry_carries_the_whole_prompt" not in broken
    vars(model).pop("sites", None)  # the text entry may be none any more
    said = "".join(f"; {PARTS[law]} ({what})" for law, what in broken.items())
    kept = f"{len(ADAPTER_LAWS) - len(broken)} of {len(ADAPTER_LAWS)} laws"
    warnings.warn(f"what was found by probing {kind} keeps {kept}{said}", stacklevel=2)


@contextmanager
def few_blocks(adapter: Adapter, pipeline: Pipeline) -> Iterator[None]:
    """The denoiser with the first two and the last block of each kind, if it runs so; sites are found by kinds."""
    sites = [site for site in adapter.sites(pipeline) if site.kind in adapter.text_kv]
    paths = dict.fromkeys(found[1] for site in sites if (found := re.match(r"(.*)\.\d+\.", site.module)))
    denoiser = adapter.module(pipeline)
    lists = [one for path in paths if isinstance(one := denoiser.get_submodule(path), nn.ModuleList)]
    with ExitStack() as stack:
        for one in lists:
            blocks = list(one)
            few = blocks if len(blocks) < 4 else [*blocks[:2], blocks[-1]]
            stack.enter_context(shadowed(one, "_modules", {str(number): block for number, block in enumerate(few)}))
        try:
            Model(pipeline, adapter).run("a sign", num_steps=1)
        except Exception:  # whatever a forward does that needs all of its blocks
            stack.close()
        yield
