"""The simulated Fleet under Fleet's own SDK."""
