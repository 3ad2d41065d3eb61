"""The bundled plugins: methods, and sources of models, prompts and scores. One folder each."""
