"""Which layers write the text? Searched by two methods, confirmed on pairs that neither saw, and compared."""

# %% The question: pairs of prompts that differ in the word on a sign; the last two are held out
import t2iprobe as t2i

model = t2i.load("tiny-sd3")
pairs = t2i.prompt_set("signs", limit=6)
asked = {"pairs": pairs, "held_out": 2, "num_steps": 5}

# %% By bisection, with few pictures
adaptive = t2i.localize(model, **asked)
print(adaptive)

# %% By gradients, of which the best three are patched exactly
attribution = t2i.localize(model, method="attribution", set={"pairs": 2}, **asked)
print(attribution.ranking)

# %% Do they agree, and what did each cost?
print(t2i.compare(adaptive, attribution))

# %% A plot to keep; adaptive.report() is a page with the pictures
attribution.plot().save("layers.png")
