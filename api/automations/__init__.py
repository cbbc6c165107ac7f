"""Automations and their runs over HTTP. All users of a tenant share them."""
