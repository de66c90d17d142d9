"""Another engine: TensorFlow Lite Micro runs the backbone over a camera's frames and writes features.

build/venv/bin/python firmware/examples/foreign/engine.py BACKBONE FRAMES > FEATURES

FRAMES is what the sensor example's make_frames.py writes. Each record is a label, one byte, and the int8
features.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tflite_micro.python.tflite_micro import runtime


def features(backbone: bytes, frames: bytes) -> bytes:
    """A record of features for each frame: a label and as many int8 values as the model takes."""
    interpreter = runtime.Interpreter.from_bytes(backbone)
    shape = interpreter.get_input_details(0)["shape"]
    rows = np.frombuffer(frames, np.uint8).reshape(-1, 1 + int(np.prod(shape)))
    out = []
    for row in rows:
        interpreter.set_input(row[1:].view(np.int8).reshape(shape), 0)
        interpreter.invoke()
        out.append(row[:1].tobytes() + interpreter.get_output(0).tobytes())
    return b"".join(out)


if __name__ == "__main__":
    sys.stdout.buffer.write(features(*(Path(name).read_bytes() for name in sys.argv[1:3])))
