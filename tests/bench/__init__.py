"""Figures that can be repeated: exact counts, sizes, bytes, accuracies. README.md says how to read them."""
