"""For authors of plugins: the laws of an adapter as a ready-made test class, and a denoiser with exact answers."""

from t2iprobe.testing.analytic import AnalyticDenoiser, GaussianMixture, levels_of
from t2iprobe.testing.laws import Law, adapter_conformance, laws

__all__ = ["AnalyticDenoiser", "GaussianMixture", "Law", "adapter_conformance", "laws", "levels_of"]
