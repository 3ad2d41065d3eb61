"""The kit for third parties: laws of an adapter as a ready test class, and a denoiser with exactly known answers."""

from t2iprobe.testing.analytic import AnalyticDenoiser, GaussianMixture, levels_of
from t2iprobe.testing.conformance import adapter_conformance
from t2iprobe.testing.laws import Law, laws

__all__ = ["AnalyticDenoiser", "GaussianMixture", "Law", "adapter_conformance", "laws", "levels_of"]
