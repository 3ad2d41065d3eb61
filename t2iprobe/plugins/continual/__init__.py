"""Continual personalization (arXiv 2410.04891): one LoRA task after another, no past data, no past adapters."""
