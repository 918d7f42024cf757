"""The environments of examples/hosted, each with its library, behind the stock clients."""
