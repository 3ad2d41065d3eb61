"""Studies: a localizer's questions and their answers on disk, so a run survives anything and is done once.

Nothing here knows about model families or methods. Reading a finished study needs no model.
"""
