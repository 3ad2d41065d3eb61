"""Write SHUT on a sign that was asked to say OPEN, by patching one attention layer; saves three pictures."""

from __future__ import annotations

import t2iprobe as t2i

SOURCE, TARGET = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'


def main() -> None:
    """Run source, target and patched source as three rows of one batch."""
    model = t2i.load("tiny-sd3")
    swap = t2i.patch({2: 1}, model.text_sites(6))  # row 2 takes from row 1, in lock-step: nothing is cached
    run = model.run(model.generation([SOURCE, TARGET, SOURCE], seed=0), interventions=[swap])
    for name, image in zip(("source", "target", "patched"), run.images, strict=True):
        image.resize((256, 256)).save(f"{name}.png")
        print(f"{name}.png")


if __name__ == "__main__":
    main()
