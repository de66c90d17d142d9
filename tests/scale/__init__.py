"""Ten thousand devices of the real core against one host process: what they cost, and what it leaves."""
