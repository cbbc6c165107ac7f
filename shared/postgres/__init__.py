"""Postgres decides: schema, named queries, pools, group commit."""
