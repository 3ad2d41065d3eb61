"""Roughly how a word sounds, to recognise words spelled by their sound: :func:`sound`, compared for equality.

Vowels other than ``y`` are left as they are: if they were changed too, too many words would sound alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

SPOKEN = 5  # fewest letters of a word that is looked for by its sound: too many shorter ones sound alike
#: applied in this order
RULES = [
    (re.compile(pattern), said)
    for pattern, said in (
        (r"que(?=s?$)", "k"),
        (r"qu", "kw"),
        (r"ph", "f"),
        (r"tch", "ch"),
        (r"sc(?=[eiy])|c(?=[eiy])", "s"),
        (r"c(?!h)|q|kh", "k"),
        (r"x", "ks"),
        (r"(?:ie|ey|ee|y)(?=s?$)|y(?=[^aeiou])", "i"),
        (r"z(?=$)", "s"),
        (r"([^aeiou])\1+", r"\1"),
    )
]


@lru_cache(maxsize=65536)
def sound(word: str) -> str:
    """A spelling that is the same for words that sound alike.

    Args:
        word: the word in plain lower-case letters.
    """
    for pattern, said in RULES:
        word = pattern.sub(said, word)
    return word
