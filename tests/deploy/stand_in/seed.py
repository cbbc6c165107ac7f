"""Stands in for `python -m shared.service.seed`."""

import json

print(json.dumps({"tenantId": "tenant-1", "userId": "user-1"}))
