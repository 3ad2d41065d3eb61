"""Bundled sets of prompt pairs."""
