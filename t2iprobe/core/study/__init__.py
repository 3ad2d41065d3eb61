"""Studies: a localizer's questions and their answers on disk, so that a run survives anything and is done once.

Nothing here knows a model's family or a method. A finished study is read without a model.
"""
