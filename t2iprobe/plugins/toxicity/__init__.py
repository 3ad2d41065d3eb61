"""Keeps toxic text out of pictures: the rewritten prompt goes to the layers that write the text, and nowhere else."""
