"""Artifacts: what a tenant keeps beside its conversations. Create, upload, list, read, download."""
