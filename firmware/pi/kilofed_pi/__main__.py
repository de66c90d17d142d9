"""`python -m kilofed_pi` is `kilofed-pi`."""

from __future__ import annotations

from kilofed_pi.cli import main

if __name__ == "__main__":
    main()
