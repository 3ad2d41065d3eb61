"""Which heads write the word, and when? One layer, patched head by head and from one step on."""

# %% The text keys and values of layer 6, from the target's run
import numpy as np
from matplotlib.figure import Figure

import t2iprobe as t2i

SOURCE, TARGET = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
model = t2i.load("tiny-sd3")
target = model.run(TARGET, seed=0, cache="blocks.6.joint_attn.[kv]")
source = model.run(SOURCE, seed=0)
heads, steps = model.sites.named("blocks.6.joint_attn.v").heads or 1, model.steps()

# %% One row of one batch for every head (and all together) and every first step
starts = range(0, steps, max(1, steps // 10))
groups = [*((head,) for head in range(heads)), tuple(range(heads))]
cells = [(group, start) for group in groups for start in starts]
edits = [
    t2i.patch(target.cache, "blocks.6.joint_attn.[kv]", rows={row: 0}, heads=group, steps=range(start, steps))
    for row, (group, start) in enumerate(cells)
]
patched = model.run([SOURCE] * len(cells), seed=0, interventions=edits)

# %% How far each image goes from the source's (0) to the target's (1), in squared pixels
whole = np.asarray(target.images[0], float) - np.asarray(source.images[0], float)
moves = [np.asarray(image, float) - np.asarray(source.images[0], float) for image in patched.images]
share = np.array([(move * whole).sum() / (whole**2).sum() for move in moves]).reshape(len(groups), len(starts))
print(share.round(2))

# %% The map
figure = Figure((7, 3), layout="constrained")
axes = figure.subplots()
shown = axes.imshow(share, vmin=0, vmax=1, cmap="viridis", aspect="auto")
axes.set_xticks(range(len(starts)), list(starts))
axes.set_yticks(range(len(groups)), [*(f"head {head}" for head in range(heads)), "all"])
axes.set_xlabel("patched from this step on")
figure.colorbar(shown, label="share of the way")
figure.savefig("heads-by-steps.png", dpi=120)
