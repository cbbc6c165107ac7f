"""Stands in for `python -m shared.postgres.seed`."""

import json

print(json.dumps({"tenantId": "tenant-1", "userId": "user-1"}))
