"""Searches sufficient sets of layers by bisection: :class:`Search`, the algorithm of the method ``adaptive``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from t2iprobe.core.errors import BudgetError
from t2iprobe.core.evidence import gap
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.trials import ranges
from t2iprobe.plugins.localization.answers import Answers, Layers, joined
from t2iprobe.plugins.localization.chain import Chain, Move
from t2iprobe.plugins.localization.losses import Losses
from t2iprobe.plugins.localization.profile import LIKELY, SURE, Profile, prior
from t2iprobe.plugins.localization.record import SearchRecord
from t2iprobe.plugins.localization.redundancy import LOOSE, Redundancy, decided

WAYS = 3  # largest number of sufficient sets


@dataclass
class Search:
    """A search for sufficient sets of layers.

    Args:
        answers: responses with all steps.
        record: gets the result.
        most: largest number of layers.
        quick: responses for bisection; the exact ones, or with fewer steps.
        ways: sufficient sets.
        losses: loss of response of each sufficient set without one of its layers.
    """

    answers: Answers
    record: SearchRecord
    most: int
    quick: Answers
    ways: list[Layers] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.every: Layers = frozenset(range(self.answers.runner.space.layers))
        self.record.details |= {"sufficient": [], "bisected": []}

    def run(self) -> None:
        """Find every sufficient set of layers."""
        runner = self.answers.runner
        clear = self.answers.shown()
        self.record.gap = gap(runner.ask([], runner.search[: len(self.answers.spans)]))
        if not clear:
            return
        whole = self.answers.until([self.every], lambda found: decided(found.interval(0, alpha=LOOSE), FOUND))
        among: Layers | None = self.every
        if whole.interval(0, alpha=LOOSE).low <= FOUND:
            return
        while among:
            way = self._way(among)
            if way:
                self._add(way)
            among = self._others() if way else None

    def _add(self, way: Layers) -> None:
        self.ways.append(way)
        self.record.layers = tuple(sorted(joined(*self.ways)))
        self.record.details["sufficient"] = [sorted(one) for one in self.ways]
        if len(self.ways) > 1:
            either = " or ".join(ranges(one) for one in self.ways)
            self.record.notes[:] = [f"Redundant layers: {either} alone suffices."]

    def _others(self) -> Layers | None:
        """Layers that contain a further sufficient set; those of known sets that suffice are added as one."""
        while len(self.ways) < WAYS:
            asked = Redundancy(self.answers, self.every, self.ways, self.losses)
            found = asked.found()
            known = asked.known(*found) if found else None
            if known is None:
                return found[0] if found else None
            self._add(known)
        return None

    def _way(self, among: Layers) -> Layers:
        """A minimal sufficient set among these layers."""
        way: Layers = frozenset()
        try:
            while len(way) < self.most:
                found = self._next(self.quick, way, among)
                if found is None and self.quick is not self.answers:  # nothing at few steps: go on with all of them
                    self.quick = self.answers
                    found = self._next(self.quick, way, among)
                if found is None:
                    break
                way |= {found}
            return self._pruned(way)
        except BudgetError:
            self.record.layers = tuple(sorted(joined(way, *self.ways)))
            raise

    def _next(self, answers: Answers, way: Layers, among: Layers) -> int | None:
        """The layer that adds most to these; ``None`` if none adds enough to count."""
        chain = Chain(way, _near_first(among - way, way))
        expected, moves = prior(len(chain.order), bool(way)), dict[int, list[Move]]()
        least = SURE
        while True:
            profile = Profile(moves, answers.weights([*moves]), expected)
            best = profile.best(least)
            if best and (again := self._read_again(answers, chain, best, moves)):
                moves |= again
                continue
            if best or least < SURE or (way and profile.agreed()) or not profile.open.any():
                break
            asked = profile.cuts()
            if asked:
                answers.ask({place: [chain.prefix(cut)] for place, cut in asked.items()})
            else:
                first = chain.prefix(profile.first_cut())
                asked = dict.fromkeys(answers.use(len(moves) + 1, first)[len(moves) :], 0)
            if not asked:  # no pair is left: take what is likely, or end
                least = LIKELY
            moves |= {place: chain.moves(answers.known[place], answers.spans[place]) for place in asked}
        shares = dict(zip(chain.order, (profile.sure[1:-1] / max(profile.pairs, 1e-9)).tolist(), strict=True))
        adds = {str(layer): share for layer, share in shares.items() if share}
        self.record.details["bisected"].append({"on": sorted(way), "pairs": len(moves), "adds": adds})
        if best is None:
            return None
        layer = chain.order[best - 1]
        self.record.ranking[layer] = shares[layer]
        return layer

    def _read_again(
        self, answers: Answers, chain: Chain, best: int, moves: Mapping[int, list[Move]]
    ) -> dict[int, list[Move]]:
        """Smaller moves of pairs that a layer seems to move, after a new reading of the chain's base.

        What looks like a move may be a low reading of the base, which every larger set seems to exceed. The base with
        a layer that does nothing is another reading of it.
        """
        layer = chain.order[best - 1]
        again = chain.base | {next((one for one in reversed(chain.order) if one != layer), layer)}
        fresh = []
        for place, found in moves.items():
            known = answers.known[place]
            read = sum(bool(one) and chain.base <= one and layer not in one for one in known)
            if read < 2 and again not in known and any(one[:2] == (best, best) for one in found):
                fresh.append(place)
        answers.ask({place: [again] for place in fresh})
        left = {place: min(max(1 - answers.known[place][again], 0.0), 1.0) for place in fresh}
        return {
            place: [one._replace(size=min(one.size, size)) if one[:2] == (best, best) else one for one in moves[place]]
            for place, size in left.items()
        }

    def _pruned(self, way: Layers) -> Layers:
        """Drop the layers that add nothing to the others, one at a time, the weakest first."""
        while len(way) > 1:
            tested = Losses(self.answers, way)
            losses, spare = tested.shares(), tested.spare()
            if not spare:
                for layer in way:
                    self.record.ranking[layer] = losses[layer]
                self.losses |= losses
                return way
            way -= {min(spare, key=losses.__getitem__)}
        self.losses |= dict.fromkeys(way, 1.0)
        return way


def _near_first(layers: Layers, found: Layers) -> list[int]:
    """Forward order; once some are found, those next to them come first, because responsible layers often cluster."""
    return sorted(layers, key=lambda layer: (min((abs(layer - one) for one in found), default=0), layer))
