"""Use-cases: the only code that combines Postgres and Redis. Surfaces and workers call it."""
