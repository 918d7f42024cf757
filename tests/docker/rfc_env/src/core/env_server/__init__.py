"""The server of an environment."""

from .http_server import create_app

__all__ = ["create_app"]
