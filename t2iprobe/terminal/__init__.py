"""What commands are made of, ours and a plugin's: common options, models, layers, printing and progress bars.

Light to import: torch comes only when a model is loaded.
"""
