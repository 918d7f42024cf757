"""Stock OpenEnv clients against the built binary, over real sockets."""
