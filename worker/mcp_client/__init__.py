"""Tools of MCP servers: docs/mcp.md. What imports the protocol's library is loaded at first use."""
