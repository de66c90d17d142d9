"""A line that does to bytes what lines do, in simulated time, and what must hold over it."""
