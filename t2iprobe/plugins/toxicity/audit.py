"""The audit log of a guard: one line of JSON per prompt, written before its picture is made.

Unless asked to, it holds no text of a prompt, only a digest that means something within one process, and the places,
sorts and scores of what was found.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.errors import GuardError

if TYPE_CHECKING:
    from t2iprobe.plugins.toxicity.policy import Decision


@dataclass(frozen=True)
class Audit:
    """Where and how decisions are written down.

    Args:
        path: the file; lines are added at its end.
        text: whether the prompt and its rewrite are written as well.
        facts: what every line says in addition (model, layers, …).
    """

    path: Path
    text: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def write(self, decision: Decision, **facts: Any) -> None:
        """Write one line.

        Raises:
            GuardError: the line cannot be written; a picture that is not on record is not made.
        """
        line = json.dumps(self.line(decision) | dict(self.facts) | facts, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise GuardError(
                f"the audit log {self.path} cannot be written ({reason}), so no picture is made"
            ) from error

    def line(self, decision: Decision) -> dict[str, Any]:
        """What a line of the log says about a decision."""
        digest = hashlib.blake2b(decision.prompt.encode(), key=self._key, digest_size=8).hexdigest()
        said = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "verdict": decision.verdict,
            "prompt_digest": digest,
            "prompt_length": len(decision.prompt),
            "hits": [
                {"detector": name, "label": hit.label, "score": round(hit.score, 4), "span": [hit.start, hit.stop]}
                for name, hit in decision.hits
            ],
            "rewriter": decision.rewriter,
            "reason": decision.reason,
        }
        return said | ({"prompt": decision.prompt, "rewrite": decision.rewrite} if self.text else {})
