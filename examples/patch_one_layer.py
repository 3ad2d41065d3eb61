"""Write SHUT on a sign that was asked to say OPEN, by patching one attention layer; saves three pictures."""

# %% A model, and two prompts that differ in a word
import t2iprobe as t2i

SOURCE, TARGET = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
model = t2i.load("tiny-sd3")
print(model)

# %% Keep the text keys and values of layer 6 from the target's run …
target = model.run(TARGET, seed=0, cache="blocks.6.joint_attn.[kv]")
print(target)

# %% … and put them into the source's run: everything else is still asked to write OPEN
source = model.run(SOURCE, seed=0)
patched = model.run(SOURCE, seed=0, patch=target.cache)

# %% The same without a cache: row 2 takes from row 1, in lock-step
swap = t2i.patch({2: 1}, model.text_sites(6))
rows = model.run([SOURCE, TARGET, SOURCE], seed=0, interventions=[swap])

# %% Look at them
for name, image in zip(("source", "target", "patched"), rows.images, strict=True):
    image.resize((256, 256)).save(f"{name}.png")
    print(f"{name}.png")
