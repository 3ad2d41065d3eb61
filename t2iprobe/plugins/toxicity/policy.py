"""What a guard does about a prompt: :class:`Policy` looks for toxic text, has it rewritten and looks again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.moderation import Detector, Hit, Rewriter, merged
from t2iprobe.core.quotes import read_quotes
from t2iprobe.plugins.toxicity.rewriters import Mask

Verdict = Literal["pass", "rewritten", "refused"]
Where = Literal["prompt", "quoted"]
ROUNDS = 4  # looks at a prompt, rewriting between them


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a prompt.

    Args:
        prompt: as it was given.
        verdict: ``pass`` (as it is), ``rewritten``, or ``refused`` (no picture).
        rewrite: what the localized layers get; ``prompt`` itself where it passes, empty where it is refused.
        hits: what was found, each with the detector's name.
        rewriter: name of the one whose rewrite is used.
        reason: why it is refused; without any of the prompt's text.
    """

    prompt: str = field(repr=False)
    verdict: Verdict
    rewrite: str = ""
    hits: tuple[tuple[str, Hit], ...] = ()
    rewriter: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Policy:
    """Detectors and a rewriter. What fails, fails closed: the prompt is refused.

    Args:
        detectors: all are asked; any of them is enough.
        rewriter: where its rewrite is still toxic, the hits are masked; where that is, too, the prompt is refused.
        where: ``prompt`` looks at all of it, since models also write what is not in quotes; ``quoted`` only at quotes.
    """

    detectors: Sequence[Detector]
    rewriter: Rewriter
    where: Where = "prompt"

    def __post_init__(self) -> None:
        if not self.detectors:
            raise ConfigError("a guard needs at least one detector, such as words")
        if self.where not in ("prompt", "quoted"):
            raise ConfigError(f"a guard looks at the prompt or at what is quoted, found {self.where!r}")

    def prepare(self) -> None:
        """Load what is heavy, or say that it is missing."""
        for detector in self.detectors:
            detector.prepare()
        self.rewriter.prepare()

    def decide(self, prompt: str) -> Decision:
        """What becomes of ``prompt``. Never raises for what a detector or rewriter does."""
        try:
            hits = self.find(prompt)
        except Exception as error:
            return Decision(prompt, "refused", reason=_failed(error))
        if not hits:
            return Decision(prompt, "pass", prompt)
        return self._rewritten(prompt, hits)

    def find(self, prompt: str) -> list[tuple[str, Hit]]:
        """What every detector finds, in the whole prompt.

        Raises:
            DetectorFailed: one of them raised, or named places that are not there.
        """
        texts = self._texts(prompt)
        return [(one.name, hit) for one in self.detectors for hit in _asked(one, texts, len(prompt))]

    def _texts(self, prompt: str) -> list[tuple[int, str]]:
        """What is looked at, and where it begins: every quoted text by itself, and all of the prompt.

        Where its quotes may be read otherwise, all of it may be quoted.
        """
        quotes = read_quotes(prompt)
        texts = [(one.start, prompt[one.start : one.stop]) for one in quotes.found]
        texts = [(start, text) for start, text in texts if text.strip()]
        return texts if self.where == "quoted" and quotes.sure else [*texts, (0, prompt)]

    def _rewritten(self, prompt: str, hits: Sequence[tuple[str, Hit]]) -> Decision:
        try:
            for rewriter in (self.rewriter, Mask(), Mask("none")):
                if rewrite := self._benign(prompt, rewriter):
                    return Decision(prompt, "rewritten", rewrite, tuple(hits), rewriter.name)
        except Exception as error:
            return Decision(prompt, "refused", hits=tuple(hits), reason=_failed(error))
        return Decision(prompt, "refused", hits=tuple(hits), reason="no rewrite of it was benign")

    def _benign(self, prompt: str, rewriter: Rewriter) -> str:
        """The rewrite in which nothing is found; empty if there is none after a few rounds."""
        for _ in range(ROUNDS):
            hits = self.find(prompt)
            if not hits:
                return prompt
            prompt = rewriter.rewrite(prompt, merged(hit for _, hit in hits))
        return ""


class DetectorFailed(Exception):
    """A detector raised; the message names it, not what it looked at."""


def _asked(detector: Detector, texts: Sequence[tuple[int, str]], length: int) -> list[Hit]:
    try:
        hits = [
            Hit(start + hit.start, start + hit.stop, hit.label, hit.score)
            for start, text in texts
            for hit in detector.find(text)
        ]
    except Exception as error:
        raise DetectorFailed(f"the detector {detector.name} failed ({type(error).__name__})") from error
    if any(not 0 <= hit.start < hit.stop <= length for hit in hits):
        raise DetectorFailed(f"the detector {detector.name} named places that are not in the prompt")
    narrow = [hit for hit in hits if hit.stop - hit.start < length]
    return list(dict.fromkeys(narrow or hits))


def _failed(error: Exception) -> str:
    """Without the message of the error, which may quote the prompt."""
    return str(error) if isinstance(error, DetectorFailed) else f"the rewriter failed ({type(error).__name__})"
