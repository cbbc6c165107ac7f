"""What a good engineer writes in a day: Starlette, asyncpg, arq, one pub/sub per stream.

A yardstick, never an example: no authentication, no idempotency, no replay, no leases. It is
configured by its own few variables (`configuration.py`) and shares nothing with the product.
"""
