"""A long run of a mixed fleet under random faults: `python -m tests.soak --minutes 30`, or `make soak`."""
