"""The paper's settings, against the published models, and its prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2iprobe.api import prompt_set
from t2iprobe.cli.models import published_ref
from t2iprobe.cli.papers import PAPERS
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.localization.options import PAPER_PAIRS, LocalizeOptions, question
from t2iprobe.registry.manager import Plugins

#: §1.3 to §1.5 of the paper's notes: steps, guidance, side
PAPER = {"sdxl": (50, 5.0, 1024), "sd3": (28, 7.0, 1024), "if": (50, 7.0, 64)}


@pytest.mark.parametrize("arch", PAPER)
def test_settings_of_the_paper(arch: str) -> None:
    one = PAPERS["iclr2025"][arch]
    assert (one.num_steps, one.guidance, one.resolution) == PAPER[arch]
    assert (one.model, one.seed, one.dtype) == (published_ref(arch, Plugins()), 42, "float16")
    assert one.reader in Plugins(installed=False).readers()
    assert arch in Plugins(installed=False).adapters()


def test_only_if_has_a_second_stage() -> None:
    stages = {arch: one.upscaler for arch, one in PAPERS["iclr2025"].items()}
    assert stages == {"sdxl": None, "sd3": None, "if": "DeepFloyd/IF-II-L-v1.0"}


def test_the_validation_prompts_share_the_noise(tmp_path: Path) -> None:
    """In files as the release has them: a hundred words in each frequency bucket of each bench."""
    words = [f"word{number}" for number in range(100)]
    for bench, sentence in (("SimpleBench", 'A sign that says "{}".'), ("CreativeBench", 'A mug with "{}" on it.')):
        (tmp_path / bench).mkdir()
        for bucket in ("top_1000", "1000_10000"):
            prompts = "\n".join(map(sentence.format, words))
            (tmp_path / bench / f"all_unigram_{bucket}_100.txt").write_text(prompts)
    full = question(LocalizeOptions(arch="sdxl", preset="iclr2025", glyphcontrol=tmp_path), Plugins())
    pairs = prompt_set(str(full.prompt_set), seed=full.seed)
    assert len(pairs) == PAPER_PAIRS == full.limit and {pair.seed for pair in pairs} == {42}
    assert {pair.source_word for pair in pairs} == {*words}


@pytest.mark.parametrize(
    ("name", "arch", "said"),
    [("iclr2024", "sdxl", "did you mean iclr2025"), ("iclr2025", "flux", "iclr2025 for the architecture 'flux'")],
)
def test_no_such_preset(name: str, arch: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _ = LocalizeOptions(preset=name, arch=arch).paper
