"""LoRA on the layers that localization found, and what it does to the rest (arXiv 2502.09935, section on fine-tuning).

How a LoRA is trained is in ``t2iprobe.training``. This package decides what is trained on what and how it is watched,
and has the command.
"""
