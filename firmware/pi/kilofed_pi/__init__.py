"""The Linux device of a kilofed fleet: a Raspberry Pi or any machine that runs tflite-runtime.

It speaks the boards' protocol, runs the model's backbone with tflite-runtime's reference kernels and trains
with the boards' integer trainer: the same samples, head and seed give the same update bytes as a board's.
"""

from __future__ import annotations

from kilofed_pi.agent import PiDevice
from kilofed_pi.backbone import Backbone

__all__ = ["Backbone", "PiDevice"]
