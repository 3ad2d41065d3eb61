"""Letters instead of words: partly right words count, and the order of letters does not."""

from collections import Counter

import numpy as np

from t2iprobe import ReportTable, Section
from t2iprobe.core.normalised_text import plain


class Letters:
    """The share of the requested word's letters that OCR read somewhere in the picture, 0 to 1."""

    name = "letters"
    direction = "higher"
    needs = "text"  # gets the text that was read, and the word
    bounds = (0.0, 1.0)

    def score(self, read, word):
        asked, found = Counter(plain(word)), Counter(plain(read))
        return (asked & found).total() / max(asked.total(), 1)


class LetterOdds:
    """Letters that are right, per letter that is missing, over all pictures together."""

    name = "letter_odds"
    direction = "higher"
    needs = "text"
    of = ("letters",)  # the stored scores that it is computed from

    def statistic(self, means):
        right = means[..., 0]
        return right / np.maximum(1 - right, 0.01)

    def score(self, found, asked):
        each = [Letters().score(read, word) for read, word in zip(found, asked, strict=True)]
        return float(self.statistic(np.array([np.mean(each)])))


def section(result):
    """The patches by the share of the target's letters, best first."""
    best = result.ranked(10, by="letters", lowest=False)
    rows = [(one.trial.label, *one.score, one.pairs) for one in best]
    columns = ("patch", "letters", "95 % low", "95 % high", "pairs")
    return Section("Letters", "The share of the target's letters that can be read.", ReportTable(columns, rows))
