"""From an image back to the noise it came from: inverters, and what noise, image and latent have to do with each other.

After "There and Back Again" (arXiv 2410.23530). The inverters know no model: they get a denoiser and a schedule.
"""
