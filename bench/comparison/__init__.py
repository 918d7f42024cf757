"""The parts of bench/compare: what is started, what is measured, how it is evaluated and shown."""
