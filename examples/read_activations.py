"""Where does the word of the prompt show in the activations, and what is lost when a head is taken out?"""

# %% Two prompts from the same noise; the text keys of every layer
import torch

import t2iprobe as t2i

OPEN, SHUT = 'a red framed sign that says "OPEN"', 'a red framed sign that says "SHUT"'
model = t2i.load("tiny-sd3")
run = model.run([OPEN, SHUT], seed=0, num_steps=10, cache="blocks.*.joint_attn.k")
print(run.cache)

# %% (row, step, branch, token, channel): how far apart the two prompts' keys are, layer by layer
for name, keys in run.cache.items():
    with_text = keys[:, :, run.cache.branches(name).index(t2i.Branch.COND)]
    apart = 1 - torch.cosine_similarity(with_text[0], with_text[1], dim=-1)  # (step, token)
    print(f"{name}: {apart.amax():.2f} at token {int(apart.amax(0).argmax())}")

# %% What each head of layer 6 does for the picture: its output set to zero
heads = model.sites.named("blocks.6.joint_attn.z").heads or 1
pictures = []
for head in range(heads):
    without = t2i.ablate("blocks.6.joint_attn.z", heads=head)
    pictures += model.run(OPEN, seed=0, num_steps=10, interventions=[without]).images

# %% An edit of one's own is a function of the activation
half = t2i.Intervention(lambda act, hook: act * 0.5, "blocks.6.joint_attn.z")
pictures += model.run(OPEN, seed=0, num_steps=10, interventions=[half]).images
for number, image in enumerate(pictures):
    image.resize((256, 256)).save(f"ablated-{number}.png")
