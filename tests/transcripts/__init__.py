"""Recorded exchanges of the reference, replayed against a server and compared."""
