"""Attention patterns as sites, the tokens of a word, and the maps that are made of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t2iprobe.api import load
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.kolors import Kolors
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.attention_maps import ways, word_maps
from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError, SiteError
from t2iprobe.core.interventions import ablate
from t2iprobe.core.model import Model
from t2iprobe.core.words import word_tokens

PROMPT = 'a sign that says "DOG"'


@pytest.fixture(scope="module")
def sd3() -> Model:
    return Model(SD3.tiny(), SD3())


@pytest.mark.parametrize(
    ("pattern", "value", "parts"),
    [
        ("blocks.1.joint_attn.pattern", "blocks.1.joint_attn.v", {"tokens": (7, 30)}),
        ("blocks.1.joint_attn.pattern", "blocks.1.joint_attn.v", {"heads": 1, "tokens": 7}),
        ("blocks.1.self_attn.pattern", "blocks.1.self_attn.v", {"tokens": 3}),
    ],
)
def test_without_its_weights_a_token_gives_nothing(sd3: Model, pattern: str, value: str, parts: dict[str, int]) -> None:
    """A weight of zero is a value of zero, head by head and token by token, for those who ask: the image tokens."""
    own = {"cache": "blocks.1.joint_attn.z", "num_steps": 1}
    weightless = sd3.run(PROMPT, interventions=[ablate(pattern, **parts)], **own)
    valueless = sd3.run(PROMPT, interventions=[ablate(value, **parts)], **own)
    site = "blocks.1.joint_attn.z"
    assert torch.allclose(weightless.cache[site], valueless.cache[site], atol=1e-5)
    assert not torch.allclose(weightless.cache[site], sd3.run(PROMPT, **own).cache[site], atol=1e-5)


def test_a_wildcard_leaves_patterns_out_unless_it_names_them(sd3: Model) -> None:
    assert not any(site.is_pattern for site in sd3.sites.match("*", "blocks.0.*"))
    assert {site.kind for site in sd3.sites.match("*.pattern")} > {"joint_attn.pattern", "text.pattern"}
    with pytest.raises(SiteError, match="cross_attn"):
        sd3.sites.match("blocks.*.cross_attn.pattern")


@pytest.mark.parametrize(
    ("family", "places"),
    [
        (SD3, (6, 7, 8, 29, 30, 31)),  # CLIP's tokens, then T5's
        (SDXL, (6, 7, 8)),  # both encoders' side by side
        (DeepFloydIF, (5, 6, 7)),
        (Kolors, (251, 252, 253)),  # padded on the left
    ],
)
def test_the_tokens_of_a_word_are_found_by_trying(family: type[SD3], places: tuple[int, ...]) -> None:
    assert word_tokens(Model(family.tiny(), family()), PROMPT, "dog") == places


def test_a_tokenizer_may_write_the_prompt_otherwise_before_it_cuts_it() -> None:
    model = load("tiny-sd3")  # which reads "an" as "a"
    assert word_tokens(model, 'an orange sign that says "DOG"', "sign") == word_tokens(
        model, 'a red sign that says "DOG"', "sign"
    )


def test_a_word_is_not_a_part_of_another(sd3: Model) -> None:
    assert word_tokens(sd3, "a red framed sign, a red one", "red") != word_tokens(sd3, "a red framed sign", "red")
    for word in ("frame", "blue", " "):
        with pytest.raises(ConfigError, match="is not in the prompt"):
            word_tokens(sd3, "a red framed sign", word)


def test_maps_are_the_weights_of_the_word_and_leave_the_picture(sd3: Model) -> None:
    maps = word_maps(sd3, [PROMPT, 'a "DOG"'], "DOG", num_steps=2, seed=[0, 1])
    plain = sd3.run(
        [PROMPT, 'a "DOG"'], num_steps=2, seed=[0, 1], cache=("blocks.1.joint_attn.pattern", "blocks.1.*.z")
    )
    weights = plain.cache["blocks.1.joint_attn.pattern", 1, Branch.COND]
    for row, prompt in enumerate([PROMPT, 'a "DOG"']):
        own = weights[row][..., list(word_tokens(sd3, prompt, "DOG"))].sum(-1)
        assert torch.allclose(maps.maps[1][row, 1].flatten(1), own, atol=1e-6)
        assert np.array_equal(np.asarray(maps.images[row]), np.asarray(plain.images[row]))
    assert maps.combined().shape == (2, *maps.images[0].size)
    assert maps.combined(layers=[1], heads=[0], steps=[1], size=(4, 4))[0].allclose(maps.maps[1][0, 1, 0], atol=1e-6)
    assert all(0 < float(value) <= 1 for value in maps.entropy()[1].flatten())


def test_both_streams_have_maps_where_both_attend(sd3: Model) -> None:
    assert ways(sd3) == ("image", "text", "output") and ways(Model(SDXL.tiny(), SDXL())) == ("image",)
    for way in ("text", "output"):
        maps = word_maps(sd3, PROMPT, "DOG", way=way, num_steps=1).maps
        assert list(maps) == [0, 1] and maps[0].shape[2:] == (2, 4, 4)  # the last block drops the text
        assert float(maps[0].abs().max()) <= 1
    with pytest.raises(ConfigError, match="it has image"):
        word_maps(Model(SDXL.tiny(), SDXL()), PROMPT, "DOG", way="text")
