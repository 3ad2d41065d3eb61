"""How a word is said, roughly, so that one that is spelled by its sound is known: :func:`sound`, compared for equality.

Vowels are left as they are, but for ``y``: with them too many words would sound alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

SPOKEN = 5  # letters of a word that is looked for by its sound: among shorter ones too many sound alike
#: in this order
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
    """What words that sound alike have in common.

    Args:
        word: in plain lower-case letters.
    """
    for pattern, said in RULES:
        word = pattern.sub(said, word)
    return word
