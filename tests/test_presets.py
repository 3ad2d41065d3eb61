"""The published settings, against the published models' layers, and their prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2iprobe.api import prompt_set
from t2iprobe.cli.models import PUBLISHED
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.localization.presets import PAIRS, PRESETS, preset
from t2iprobe.registry.manager import Plugins

RELEASE = Path("/work/shared/data/glyphcontrol/text_prompts/paper")
#: §1.3 to §1.5 of the paper's notes: steps, guidance, side, layers in all, pictures that were made
PAPER = {
    "sdxl": (50, 5.0, 1024, 70, 200 * (70 + 2)),
    "sd3": (28, 7.0, 1024, 24, 200 * (24 + 2)),
    "if": (50, 7.0, 64, 22, 200 * (22 + 2)),
}


@pytest.mark.parametrize("arch", PAPER)
def test_settings_of_the_paper(arch: str) -> None:
    one = preset("iclr2025", arch)
    pictures = PAIRS * (one.layers + 2)
    assert (one.num_steps, one.guidance, one.resolution, one.layers, pictures) == PAPER[arch]
    assert (one.arch, one.model, one.seed, one.dtype) == (arch, PUBLISHED[arch], 42, "float16")
    assert max(one.found) < one.layers
    assert one.reader in Plugins(installed=False).readers()
    assert arch in Plugins(installed=False).adapters()


def test_only_if_has_a_second_stage() -> None:
    stages = {arch: one.upscaler for arch, one in PRESETS["iclr2025"].items()}
    assert stages == {"sdxl": None, "sd3": None, "if": "DeepFloyd/IF-II-L-v1.0"}
    assert preset("iclr2025", "if").read_at == 256


@pytest.mark.skipif(not RELEASE.is_dir(), reason="GlyphControl's files are not there")
def test_the_validation_prompts_share_the_noise() -> None:
    one = preset("iclr2025", "sdxl")
    pairs = prompt_set(one.prompt_set(str(RELEASE)), seed=one.seed)
    assert len(pairs) == PAIRS and {pair.seed for pair in pairs} == {42}
    assert len({pair.source_word for pair in pairs}) == 100


@pytest.mark.parametrize(
    ("name", "arch", "said"),
    [("iclr2024", "sdxl", "did you mean iclr2025"), ("iclr2025", "flux", "iclr2025 for the architecture 'flux'")],
)
def test_no_such_preset(name: str, arch: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        preset(name, arch)
