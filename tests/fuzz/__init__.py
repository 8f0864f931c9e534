"""Damaged and hostile files for everything that reads one: a few hundred in the test suite, 12,000 with `make fuzz`."""
