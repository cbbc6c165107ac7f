"""Why a tool of an MCP server gives no result."""

from __future__ import annotations


class McpUnavailable(Exception):
    """The server cannot be had at the moment; the message says why, to a model."""


class McpFailed(Exception):
    """The server refused a request; the message is the server's own."""
