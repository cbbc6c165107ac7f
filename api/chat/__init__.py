"""The primary surface: threads, messages and turns under `/api/v1/chat`."""
