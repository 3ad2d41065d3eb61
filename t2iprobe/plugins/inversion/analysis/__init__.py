"""Measurements on noise, images and latents: pure functions of arrays (row, ...) that need no model and no file.

E1 to E14 are the experiments of arXiv 2410.23530 and its code, as the project's notes on the paper number them.
"""
