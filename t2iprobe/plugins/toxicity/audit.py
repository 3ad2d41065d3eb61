"""The audit log of a guard: one line of JSON per prompt, written before its picture is made.

By default it contains no text of a prompt, only a digest that can be compared within one process, and the spans, kinds
and scores of the hits.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.errors import GuardError

if TYPE_CHECKING:
    from t2iprobe.plugins.toxicity.policy import Decision


@dataclass(frozen=True)
class Audit:
    """A log of decisions.

    Args:
        path: the file; lines are added at its end.
        text: whether the prompt and its rewrite are logged as well.
    """

    path: Path
    text: bool = False
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def write(self, decision: Decision, **facts: Any) -> None:
        """Write one line.

        Raises:
            GuardError: the line cannot be written; no picture is made without its line.
        """
        line = json.dumps(self.line(decision) | facts, ensure_ascii=False)
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
        """The line of the log for a decision."""
        digest = hashlib.blake2b(decision.prompt.encode(), key=self._key, digest_size=8).hexdigest()
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "prompt_digest": digest,
            "prompt_length": len(decision.prompt),
            **decision.facts(),
        }
        return facts | ({"prompt": decision.prompt, "rewrite": decision.rewrite} if self.text else {})
