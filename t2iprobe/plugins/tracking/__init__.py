"""Trackers of studies."""
