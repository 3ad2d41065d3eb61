"""What a guard does about a prompt: :class:`Policy` looks for toxic text, has it rewritten and checks the result."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from numbers import Integral, Real
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from t2iprobe.core.contracts.detector import TIME_LIMIT, Detector, Hit, Rewriter, merged
from t2iprobe.core.errors import ConfigError, GuardError
from t2iprobe.core.quotes import read_quotes
from t2iprobe.plugins.toxicity.folding import Span
from t2iprobe.plugins.toxicity.rewriters import Mask

Result = TypeVar("Result")
Verdict = Literal["pass", "rewritten", "refused"]
Where = Literal["prompt", "quoted"]
ROUNDS = 4  # how often a rewrite is checked and rewritten again
SEAM = "\n"  # joins quoted texts that are checked together


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a prompt.

    Args:
        prompt: the prompt.
        verdict: ``pass`` (unchanged), ``rewritten``, or ``refused`` (no picture).
        rewrite: what the localized layers get: ``prompt`` itself if it passes, empty if it is refused.
        hits: the toxic spans, each with the detector's name.
        rewriter: name of the rewriter whose rewrite is used.
        reason: why it is refused, without any of the prompt's text.
    """

    prompt: str = field(repr=False)
    verdict: Verdict
    rewrite: str = ""
    hits: tuple[tuple[str, Hit], ...] = ()
    rewriter: str = ""
    reason: str = ""

    def facts(self) -> dict[str, Any]:
        """What may be logged of the decision, as JSON: nothing of the prompt's text."""
        hits = [
            {"detector": name, "label": hit.label, "score": round(hit.score, 4), "span": [hit.start, hit.stop]}
            for name, hit in self.hits
        ]
        return {"verdict": self.verdict, "hits": hits, "rewriter": self.rewriter, "reason": self.reason}


@dataclass(frozen=True)
class Policy:
    """Detectors and a rewriter. If one fails, or gives no proper answer in time, the policy fails closed: it refuses.

    Args:
        detectors: a hit of any of them is enough.
        rewriter: if its rewrite is still toxic, the hits are masked; if that is toxic too, the prompt is refused.
        where: ``prompt`` checks all of it, since models also write what is not quoted; ``quoted`` only quotes.
        limit: seconds that a detector may take to check a prompt, or the rewriter for one rewrite.
    """

    detectors: Sequence[Detector]
    rewriter: Rewriter
    where: Where = "prompt"
    limit: float = TIME_LIMIT

    def __post_init__(self) -> None:
        if not self.detectors:
            raise ConfigError("a guard needs at least one detector, such as words")
        if self.where not in ("prompt", "quoted"):
            raise ConfigError(f"a guard checks the 'prompt' or what is 'quoted' in it, found {self.where!r}")
        if not self.limit > 0:
            raise ConfigError(f"the time limit of a guard must be above 0 s, found {self.limit:g}")

    def prepare(self) -> None:
        """Load what takes long to load.

        Raises:
            GuardError: a detector or the rewriter tried to end the process.
        """
        parts: list[Detector | Rewriter] = [*self.detectors, self.rewriter]
        for part in parts:
            try:
                part.prepare()
            except SystemExit as error:
                raise GuardError(f"{part.name} exits when it is loaded, so no picture is made") from error

    def decide(self, prompt: str) -> Decision:
        """Decide what becomes of ``prompt``. Never raises because of what a detector or rewriter does."""
        try:
            hits = self.find(prompt)
        except NoVerdict as error:
            return Decision(prompt, "refused", reason=str(error))
        if not hits:
            return Decision(prompt, "pass", prompt)
        return self._rewritten(prompt, hits)

    def find(self, prompt: str) -> list[tuple[str, Hit]]:
        """The hits of all detectors, placed in the whole prompt.

        Raises:
            NoVerdict: one of them raised, took too long, or gave no proper answer.
        """
        looks = self._looks(prompt)
        return [(detector.name, hit) for detector in self.detectors for hit in self._asked(detector, prompt, looks)]

    def _looks(self, prompt: str) -> list[list[Span]]:
        """The parts of the prompt that are checked as one text: each quoted text, those joined, and all of it.

        If its quotes can be paired in another way, all of it may be quoted.
        """
        quotes = read_quotes(prompt)
        inside = [(quote.start, quote.stop) for quote in quotes.found if prompt[quote.start : quote.stop].strip()]
        looks = [[quote] for quote in inside] + [inside] * (len(inside) > 1)
        return looks if self.where == "quoted" and quotes.sure else [*looks, [(0, len(prompt))]]

    def _asked(self, detector: Detector, prompt: str, looks: Sequence[Sequence[Span]]) -> list[Hit]:
        texts = [SEAM.join(prompt[start:stop] for start, stop in look) for look in looks]
        answers = within(self.limit, f"the detector {detector.name}", lambda: [detector.find(text) for text in texts])
        for answer, text in zip(answers, texts, strict=True):
            _check(detector, answer, len(text))
        hits = [
            hit for answer, look in zip(answers, looks, strict=True) for one in answer for hit in _placed(one, look)
        ]
        narrow = [hit for hit in hits if hit.stop - hit.start < len(prompt)]
        return list(dict.fromkeys(narrow or hits))

    def _rewritten(self, prompt: str, hits: Sequence[tuple[str, Hit]]) -> Decision:
        try:
            for rewriter in (self.rewriter, Mask(), Mask("none")):
                if rewrite := self._benign(prompt, rewriter):
                    return Decision(prompt, "rewritten", rewrite, tuple(hits), rewriter.name)
        except NoVerdict as error:
            return Decision(prompt, "refused", hits=tuple(hits), reason=str(error))
        return Decision(prompt, "refused", hits=tuple(hits), reason="no rewrite of it is benign")

    def _benign(self, prompt: str, rewriter: Rewriter) -> str:
        """A rewrite in which nothing is found; empty if there is none after a few rounds."""
        for _ in range(ROUNDS):
            hits = self.find(prompt)
            if not hits:
                return prompt
            prompt = self._rewrite(prompt, rewriter, merged(hit for _, hit in hits))
        return ""

    def _rewrite(self, prompt: str, rewriter: Rewriter, hits: Sequence[Hit]) -> str:
        answer: object = within(self.limit, "the rewriter", lambda: rewriter.rewrite(prompt, hits))
        if not isinstance(answer, str):
            raise NoVerdict(f"the rewriter returned a {type(answer).__name__}, not a prompt")
        return answer


class NoVerdict(GuardError):
    """A detector or rewriter gave no proper answer; the message names it, but does not quote the prompt."""


def _check(detector: Detector, answer: Any, length: int) -> None:
    """Refuse an answer that is not a verdict.

    Raises:
        NoVerdict: it is not one.
    """
    if not isinstance(answer, list | tuple) or not all(isinstance(hit, Hit) for hit in answer):
        raise NoVerdict(f"the detector {detector.name} returned a {type(answer).__name__}, not a list of hits")
    if not all(isinstance(hit.score, Real) and math.isfinite(hit.score) for hit in answer):
        raise NoVerdict(f"the detector {detector.name} returned a score that is not a finite number")
    places = [(hit.start, hit.stop) for hit in answer]
    if not all(isinstance(position, Integral) for place in places for position in place) or not all(
        0 <= start < stop <= length for start, stop in places
    ):
        raise NoVerdict(f"the detector {detector.name} returned a span that is not in the prompt")


def _placed(hit: Hit, look: Sequence[Span]) -> Iterator[Hit]:
    """A hit in parts that are checked as one text, converted to hits in the prompt."""
    before = 0
    for start, stop in look:
        first, last = max(hit.start - before, 0), min(hit.stop - before, stop - start)
        if first < last:
            yield Hit(start + first, start + last, hit.label, hit.score)
        before += stop - start + len(SEAM)


def within(seconds: float, name: str, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, run in a thread that is abandoned if it takes too long.

    So other people's code can neither block nor end this process.

    Args:
        seconds: how long it may take.
        name: what errors call it.
        work: code of a detector or rewriter.

    Raises:
        NoVerdict: it raised anything, ``SystemExit`` included, or took too long; its own message may quote a prompt and
            is left out.
    """
    done: SimpleQueue[tuple[Result] | BaseException] = SimpleQueue()
    thread = threading.Thread(target=copy_context().run, args=(_answer_into, work, done), daemon=True)
    thread.start()
    try:
        answer = done.get(timeout=min(seconds, threading.TIMEOUT_MAX))
    except Empty:
        raise NoVerdict(f"{name} failed (no answer within {seconds:g} s)") from None
    if isinstance(answer, BaseException):
        raise NoVerdict(f"{name} failed ({type(answer).__name__})") from answer
    return answer[0]


def _answer_into(work: Callable[[], Result], done: SimpleQueue[tuple[Result] | BaseException]) -> None:
    try:
        done.put((work(),))
    except BaseException as error:  # an exit here would end only the thread, and go unnoticed
        done.put(error)
