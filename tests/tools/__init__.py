"""Manifests served by the built binary, with third-party MCP servers behind it and stock MCP clients before
it."""
