"""The real reference server, which proves that the replay harness is honest."""
