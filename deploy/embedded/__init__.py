"""Postgres and Valkey from wheels, owned by the process that starts them."""
