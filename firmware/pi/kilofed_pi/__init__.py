"""The Linux device of a kilofed fleet: a Raspberry Pi or any machine that runs tflite-runtime.

It speaks the boards' protocol, runs the model's backbone with tflite-runtime's reference kernels and trains
with the boards' integer trainer: the same samples, head and seed give the same update bytes as a board's.

backbone: the frozen part of a model. agent: the device's logic, `PiDevice`, without line and clock. cli: the
program `kilofed-pi`. Nothing is imported until it is asked for.
"""

from __future__ import annotations
