"""The laws of metrics, aggregates and sections hold; and what is said about words whose answer is known."""

import numpy as np
from t2iprobe_letters import t2iprobe_report_sections
from t2iprobe_letters.letters import LetterOdds, Letters

from t2iprobe.testing import aggregate_conformance, metric_conformance, section_conformance

TestLetters = metric_conformance(Letters)
TestOdds = aggregate_conformance(
    LetterOdds,
    better=(["OPEN", "DOG"], ["OPEN", "DOG"]),
    worse=(["OPN", "XYZ"], ["OPEN", "DOG"]),
    metrics=[Letters],
)
TestSection = section_conformance(t2iprobe_report_sections)


def test_letters_are_counted_whatever_their_order_and_case():
    assert Letters().score("taca", "CAT") == 1.0
    assert Letters().score("CART", "SHOP") == 0.0
    assert Letters().score("OPN", "OPEN") == 0.75


def test_odds_follow_from_stored_means():
    assert LetterOdds().statistic(np.array([[0.75], [0.5]])).tolist() == [3.0, 1.0]
    assert LetterOdds().score(["OPN"], ["OPEN"]) == 3.0
