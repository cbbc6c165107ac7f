"""The OpenAI Responses surface: see docs/surfaces/responses.md."""
