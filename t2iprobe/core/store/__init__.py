"""Activations on disk, in Zarr v3: written as they arrive, read in pieces, and usable as donors of patches.

``capture`` makes a store, :class:`~t2iprobe.core.store.reader.ActivationStore` reads one. Nothing here depends on a
model's family, and reading a store needs no model.
"""
