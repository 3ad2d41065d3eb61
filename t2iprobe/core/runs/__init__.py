"""Runs: their folders, and the one engine that starts, resumes and stops them and says how far they are.

A command supplies what decides its result, the work that is left, and where the parts are stored. Nothing here knows
about methods, model families, or what the parts are.
"""
