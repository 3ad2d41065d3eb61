"""Bundled readers and metrics: text, colour and image similarity."""
