"""Use-cases: how routes reach Postgres and Redis, and what the workers share of it."""
