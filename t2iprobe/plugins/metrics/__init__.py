"""Bundled readers and metrics: text, colour, similarity of images."""
