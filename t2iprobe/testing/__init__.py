"""The kit for third parties: what every adapter must satisfy, as laws and as a ready test class."""

from t2iprobe.testing.conformance import adapter_conformance
from t2iprobe.testing.laws import Law, laws

__all__ = ["Law", "adapter_conformance", "laws"]
