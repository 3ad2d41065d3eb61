"""Tensors, hooks and studies. Imports no diffusers, typer or pluggy."""
