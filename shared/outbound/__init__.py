"""Requests to addresses that tenants choose: what may be asked, and a client that keeps to it.

The rules and the signature are pure, for the API too; `client` needs httpcore, for workers only.
"""
