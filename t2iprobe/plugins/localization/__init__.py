"""Methods that find the layers, heads and steps responsible for a concept."""
