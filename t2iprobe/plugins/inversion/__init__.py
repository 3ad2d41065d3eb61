"""Inversion, from an image back to the noise it came from: methods, and how noise, image and latent are related.

After "There and Back Again" (arXiv 2410.23530). The inverters know no model: they get a denoiser and a schedule.
"""
