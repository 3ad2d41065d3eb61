"""Tensors, hooks and studies. Knows no diffusers, no typer, no pluggy."""
