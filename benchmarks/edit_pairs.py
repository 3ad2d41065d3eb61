"""Pairs of which the target differs from the source in everything: word, colour and layout. For ``t2iprobe edit``.

A localized edit shall take the word alone (arXiv 2502.09935, table 3: the target's template is another).

    python benchmarks/edit_pairs.py pairs.csv
    t2iprobe edit --arch sd3 --layers 6 --pairs pairs.csv --method all
"""

from __future__ import annotations

import csv
import random
import re
import sys

from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, Sign
from t2iprobe.plugins.organisms.prompts import Signs

PAIRS = 32


def main(path: str) -> None:
    """Write the pairs of the set ``signs`` with another colour and layout in every target."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["source", "target", "seed"])
        for number, pair in enumerate(Signs().pairs(PAIRS)):
            found = re.match(r"a (\w+) (\w+) sign", pair.source)
            assert found is not None
            draw = random.Random(number)
            colour = draw.choice([one for one in COLOURS if one != found[1]])
            layout = draw.choice([one for one in LAYOUTS if one != found[2]])
            rows.writerow([pair.source, Sign(pair.target_word, colour, layout).prompt, pair.seed])


if __name__ == "__main__":
    main(sys.argv[1])
