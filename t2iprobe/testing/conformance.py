"""Make a test class from the laws: ``TestMine = adapter_conformance(MyAdapter)``."""

from __future__ import annotations

import os
from collections.abc import Callable

from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.testing.laws import Law, laws

#: the environment variable that names the torch device for the laws; the CPU if it is not set
DEVICE = "T2IPROBE_TEST_DEVICE"


def adapter_conformance(adapter: type[Adapter]) -> type:
    """A pytest class with one method per law, each on a fresh ``adapter.tiny()``.

    ``T2IPROBE_TEST_DEVICE=cuda pytest`` runs them on a GPU.
    """
    methods = {f"test_{law.__name__}": _method(law, adapter) for law in laws()}
    name = f"Test{adapter.__name__}"
    return type(name, (), {**methods, "__doc__": f"The laws of an adapter, checked on {adapter.__name__}."})


def _method(law: Law, adapter: type[Adapter]) -> Callable[[object], None]:
    def test(self: object) -> None:
        law(adapter(), adapter.tiny().to(os.environ.get(DEVICE, "cpu")))

    test.__doc__ = law.__doc__
    return test
