"""MCP's own conformance suite, run against our servers and clients."""
