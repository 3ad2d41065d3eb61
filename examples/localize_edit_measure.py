"""Localize, edit, measure again: the layer that writes the text, an edit through it, and what else the edit changed."""

# %% Which layers write the word? Pairs of prompts differ in the word on a sign; the last four are held out
import t2iprobe as t2i

model = t2i.load("tiny-sd3")
found = t2i.localize(model, pairs=8, held_out=4, num_steps=5)
print(found.finding.sentence)
found.plot().save("layers.png")

# %% Edit through them. The target prompts also ask for another colour and layout, which should not change
words = [("OPEN", "SHUT"), ("TEAM", "CAFE"), ("MILK", "SOUP"), ("BOOK", "LAMP"), ("FISH", "RAIN"), ("COAT", "SEED")]
pairs = [
    t2i.Pair.from_prompts(f'a red framed sign that says "{old}"', f'a blue plain sign that says "{new}"', seed=seed)
    for seed, (old, new) in enumerate(words)
]
edited = t2i.edit(model, pairs=pairs, layers=found.layers, num_steps=5)
edited.sheet.save("edited.png")

# %% Measure: is the new word there (OCR), and is the rest of the image the old one (SSIM outside the text)?
for method, word, rest in edited.compared()[["method", "ocr_f1_target", "ssim_textless"]].itertuples(index=False):
    print(f"{method:12} word {word[0]:.2f} [{word[1]:.2f}, {word[2]:.2f}], rest {rest[0]:.3f}")

# %% Localize once more, by gradients instead of patches: do both methods name the same layers, and at what cost?
again = t2i.localize(model, pairs=8, held_out=4, num_steps=5, method="attribution", set={"pairs": 2})
print(t2i.compare(found, again))
