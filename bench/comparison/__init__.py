"""The parts of bench/compare: what is started, what is measured, how it is judged and shown."""
