"""Runs: their folders, and the one engine that begins them, goes on with them, stops them and says how far they are.

A command brings what decides its result, the work that is left, and where the parts are stored. Nothing here knows a
method, a model's family, or what the parts are.
"""
