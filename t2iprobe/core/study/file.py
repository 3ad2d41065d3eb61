"""What a study file may say: :class:`StudyFile`. Unknown keys are refused, with the near name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.textfile import read_text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(_Part):
    """``[model]``: which weights, and where they run."""

    ref: str
    upscaler: str | None = None
    device: str | None = None
    dtype: str | None = None


class PairsPart(_Part):
    """``[pairs]``: a prompt set, a CSV file, or the two prompts of one pair; default what the model was made for."""

    prompt_set: str | None = None
    csv: str | None = None
    source: str | None = None
    target: str | None = None
    limit: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    concept: str = "text"
    held_out: int = Field(default=0, ge=0)


class LocalizerPart(BaseModel):
    """``[localizer]``: its name and its own settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "exhaustive"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class GenerationPart(_Part):
    """``[generation]``: what is left out is the model's own."""

    num_steps: int | None = Field(default=None, ge=1)
    guidance: float | None = None
    height: int | None = Field(default=None, ge=8)
    width: int | None = Field(default=None, ge=8)


class StudyFile(_Part):
    """A study file."""

    out: str | None = None
    store: str | None = None
    seed: int = 0
    budget: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    metrics: list[str] | None = None
    reader: str = "rapidocr"
    model: ModelPart
    pairs: PairsPart = PairsPart()
    localizer: LocalizerPart = LocalizerPart()
    generation: GenerationPart = GenerationPart()


def read(path: Path) -> StudyFile:
    """The study file at ``path``.

    Raises:
        ConfigError: it cannot be read, or says something that is not known.
    """
    try:
        found = tomllib.loads(read_text(path, "the study file"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    return parse(found, str(path))


def parse(found: Mapping[str, Any], name: str = "the study file") -> StudyFile:
    """What a study file says.

    Raises:
        ConfigError: something in it is not known or of another kind; the message has the place and near names.
    """
    try:
        return StudyFile.model_validate(found)
    except ValidationError as error:
        # what is misspelt is missing, too: the unknown name comes first
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise ConfigError(f"{name}: {_explained(first['loc'], first['type'], first['msg'], first['input'])}") from None


def _explained(place: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    where = ".".join(map(str, place))
    if kind == "extra_forbidden" and len(place) == 1 and isinstance(value, Mapping):
        return f"unknown section [{where}]{near(where, _sections())}"
    if kind == "extra_forbidden":
        return f"unknown key {where!r}{near(str(place[-1]), _keys(place[:-1]))}"
    if kind == "missing":
        return f'{where} is missing; write it, such as [model] with ref = "tiny-sd3"'
    return f"{where}: {message[0].lower()}{message[1:]}, found {value!r}"


def _sections() -> list[str]:
    """Parts of the file that have keys of their own."""
    return [name for name, one in StudyFile.model_fields.items() if hasattr(one.annotation, "model_fields")]


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """Known keys of a part of the file."""
    part: Any = StudyFile
    for step in place:
        annotation = part.model_fields[step].annotation
        part = next((one for one in (annotation, *get_args(annotation)) if hasattr(one, "model_fields")), part)
    return list(part.model_fields)
