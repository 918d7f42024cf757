"""Needs a module that nobody has."""

import absent_module  # noqa: F401
