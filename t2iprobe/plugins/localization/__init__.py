"""Finds which layers, heads and steps are responsible for a concept."""
