"""Engines: what answers a turn, a model or a script."""
