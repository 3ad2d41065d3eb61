"""The laws of an adapter hold."""

from t2iprobe_ldm.adapter import LDM

from t2iprobe.testing import adapter_conformance

TestLDM = adapter_conformance(LDM)
