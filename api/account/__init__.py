"""Accounts of the primary surface: signing in, the user, personal access tokens."""
