"""The environment that the Dockerfile of the tools RFC packs."""
