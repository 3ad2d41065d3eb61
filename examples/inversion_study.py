"""From an image back to its noise: two inverters, and what is wrong with the noise that each finds."""

# %% Sample images from known noise, invert them, and sample them again
import numpy as np
from PIL import Image

import t2iprobe as t2i

found = t2i.invert("tiny-sd3", limit=8, num_steps=10, method="euler,fixed-point")
print(found.to_frame().round(3).to_string(index=False))

# %% True noise has a standard deviation of 1 and no correlation between neighbours. What do the methods find?
run = found.run


def neighbours(noise: np.ndarray) -> float:
    """The correlation of pixels beside each other."""
    return float(np.corrcoef(noise[..., :-1].ravel(), noise[..., 1:].ravel())[0, 1])


noises = {"true noise": np.asarray(run.noise), **{arm: np.asarray(run.latent(arm)) for arm in ("euler", "fixed-point")}}
for name, noise in noises.items():
    print(f"{name:12} spread {noise.std():.3f}  neighbours {neighbours(noise):+.3f}")

# %% Image, true noise and inverted noise, one column for each of four images
columns = range(4)
pictures = [np.hstack([np.asarray(run.picture("source", row).convert("RGB")) for row in columns])]
for noise in noises.values():
    first = np.hstack([noise[row, 0] for row in columns])
    grey = np.uint8(np.clip(128 + 50 * first, 0, 255))
    scaled = Image.fromarray(grey).resize((pictures[0].shape[1], pictures[0].shape[0]), Image.Resampling.NEAREST)
    pictures.append(np.asarray(scaled.convert("RGB")))
sheet = Image.fromarray(np.vstack(pictures))
sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save("noise.png")
