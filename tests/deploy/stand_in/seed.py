"""Stands in for `python -m shared.service.seed`."""

import json

told = {"tenantId": "tenant-1", "userId": "user-1", "projectId": "p-1", "agentId": "agent-1"}
print(json.dumps({**told, "email": "dev@localhost", "organization": "development"}))
