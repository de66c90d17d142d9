"""Pure functions on models and parameters: no device, no clock, no files beyond what they are given.

A reader's order: `flat` and `tflite` (the file), `metadata` (what rides in it), `heads` (the trained part),
`convert` and `adapt` (how a model gets here), `evaluate` (what it says), then training, updates, strategies
and the memory plan. Errors are drawn in `errors`.
"""
