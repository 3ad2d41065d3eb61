"""Activations on disk, in Zarr v3: written as they come, read piece by piece, and a donor for patches.

``capture`` makes a store, :class:`~t2iprobe.core.store.reader.ActivationStore` reads one. Nothing here knows a model's
family, and a store is read without a model.
"""
