"""What the environments of the tools RFC's time are built on, as small as a test needs it."""
