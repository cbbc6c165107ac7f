"""Encoders: the one event union in, one protocol's bytes out. No storage, no HTTP."""
