"""What plugins register, as plain data: :data:`KINDS`, and what is wrong with a plugin or a thing that it registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from t2iprobe.registry import hookspecs
from t2iprobe.registry.hookspecs import PROJECT

#: names of the command line itself, by kind, which no plugin can take
OWN: Mapping[str, Sequence[str]] = {
    "commands": ("capture", "check-adapter", "plugins", "report", "sites", "store", "study", "view"),
    "runs": ("capture", "explore"),
}


class Kind(NamedTuple):
    """What a hook registers.

    Args:
        noun: what one of its things is called in messages.
        parts: attributes that each must have, beside its name.
        returns: what the hook returns: a list of things with a ``name``, or things by name.
    """

    noun: str
    parts: tuple[str, ...] = ()
    returns: type = list


#: kinds of things that plugins register with ``t2iprobe_register_…``
KINDS: Mapping[str, Kind] = {
    "adapters": Kind("adapter", ("pipelines",)),
    "models": Kind("model"),
    "concepts": Kind("concept"),
    "prompt_sets": Kind("prompt set"),
    "readers": Kind("reader"),
    "metrics": Kind("metric", ("direction", "needs", "score")),
    "aggregates": Kind("aggregate"),
    "localizers": Kind("localizer", ("summary",)),
    "editors": Kind("editor", ("summary",)),
    "inverters": Kind("inverter"),
    "detectors": Kind("detector", ("summary",)),
    "rewriters": Kind("rewriter", ("summary",)),
    "executors": Kind("executor"),
    "trackers": Kind("tracker", ("summary",)),
    "commands": Kind("command", ("registered_commands",), dict),
    "runs": Kind("kind of run", ("__call__",), dict),
}


def lacking_in(name: object, thing: object, parts: Sequence[str]) -> list[str]:
    """What something that a plugin registers must have and has not: a name, a part, a method that is still abstract."""
    unnamed = [] if isinstance(name, str) else ["name"]
    abstract = sorted(getattr(thing, "__abstractmethods__", ()))
    return [*unnamed, *(one for one in parts if not hasattr(thing, one)), *abstract]


def unmarked_in(plugin: object) -> list[str]:
    """Functions of a plugin that are named like hooks but not marked."""
    hooks = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    return [name for name in hooks if hasattr(plugin, name) and not hasattr(getattr(plugin, name), f"{PROJECT}_impl")]
