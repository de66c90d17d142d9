"""The training core as a child process, built with the sanitizers once a session."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kilofed_tools.trainer import Rate, TrainConfig
from kilofed_tools.updates import Codec, Residual

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "firmware/src/train").glob("*.c"))
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
COVERAGE = ["--coverage", "-fprofile-update=atomic"] if os.environ.get("KILOFED_COVERAGE") else []
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

KF_OK, KF_ERR_ARG, KF_ERR_MEMORY, KF_ERR_UNSUPPORTED = 0, -1, -2, -4
KF_ERR_SHAPE, KF_ERR_STATE, KF_ERR_BLOB = -6, -7, -10


def build(target: Path, main: Path, compiler: str = "gcc") -> Path:
    """Build the training core with ``main`` under the sanitizers."""
    include = f"-I{ROOT / 'firmware/include'}"
    options = [*WARNINGS, *SANITIZERS]
    if COVERAGE and compiler == "gcc":
        # What is counted lies beside the program, and is to outlive pytest's folders.
        target = ROOT / "build" / "coverage" / "train" / f"{main.stem}-{os.getpid()}" / target.name
        target.parent.mkdir(parents=True, exist_ok=True)
        options += COVERAGE
    command = [compiler, *options, include, *map(str, SOURCES), str(main), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


@dataclass(frozen=True)
class Round:
    """What a device made of a round. Arrays in the trainer's units."""

    W: np.ndarray
    b: np.ndarray
    samples: int
    loss_q12: int
    peak_q12: int
    slices: int
    update_slices: int
    held_out: int
    head_correct: int
    params_correct: int
    update: bytes
    residual: Residual
    personal: bytes


class Answer:
    """Reads an answer of the runner in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        assert len(part) == size
        self._at += size
        return part

    def number(self) -> int:
        return int(struct.unpack("<q", self.take(8))[0])

    def numbers(self, n: int) -> list[int]:
        return [self.number() for _ in range(n)]

    def array(self, dtype: str, *shape: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.take(size), dtype).reshape(shape)

    def end(self) -> None:
        assert self._at == len(self._data)


class Runner:
    """The core behind a pipe. A crash shows as the sanitizer's report in the test's error."""

    def __init__(self, program: Path) -> None:
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def ask(self, what: str, *parts: bytes) -> Answer:
        request = what.encode() + b"".join(parts)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(struct.pack("<I", len(request)) + request)
        self._process.stdin.flush()
        header = self._process.stdout.read(4)
        if len(header) < 4:
            raise AssertionError(f"the core died with status {self._process.wait()}; its report is on stderr")
        return Answer(self._process.stdout.read(struct.unpack("<I", header)[0]))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0

    def round(
        self,
        head: bytes,
        q: np.ndarray,
        y: np.ndarray,
        config: TrainConfig,
        *,
        classes: int,
        x_zp: int,
        capacity: int,
        holdout: int,
        codec: Codec,
        residual: Residual | None = None,
        max_macs: int = 2**32 - 1,
    ) -> Round | tuple[int, int]:
        """A whole round, or (stage, status) of the first refusal."""
        features = q.shape[1]
        residual = residual or Residual.zeros(classes, features)
        rate: list[bytes] = [struct.pack("<HB", *r) for r in (config.lr_w, config.lr_b, config.prox)]
        answer = self.ask(
            "r",
            struct.pack("<IHBb", config.seed, config.batch, config.epochs, x_zp),
            *rate,
            struct.pack("<HHHH", classes, features, capacity, holdout),
            struct.pack("<IIBI", len(q), max_macs, codec, len(head)),
            head,
            *(
                struct.pack("<H", int(label)) + row.astype(np.int8).tobytes()
                for row, label in zip(q, y, strict=True)
            ),
            residual.b.astype("<i4").tobytes(),
            residual.W.astype("<i2").tobytes(),
        )
        stage, status = answer.numbers(2)
        if status != KF_OK:
            answer.end()
            return stage, status
        locks, samples, loss, peak, slices, update_slices, held_out, before, after = answer.numbers(9)
        assert locks == 0
        n = classes * features
        sizes = {Codec.INT32: 4 * n + 4 * classes, Codec.INT8: n + classes}
        sizes |= {Codec.INT4: (n + 1) // 2 + classes, Codec.TERNARY: (n + 4) // 5 + classes}
        W, b = answer.array("<i4", classes, features), answer.array("<i4", classes)
        update = answer.take(16 + sizes[codec])
        left = Residual(answer.array("<i2", classes, features), answer.array("<i4", classes))
        personal = answer.take(16 + (n + 3) // 4 * 4 + 4 * classes)
        answer.end()
        return Round(
            W, b, samples, loss, peak, slices, update_slices, held_out, before, after, update, left, personal
        )


def make_head(
    weights: np.ndarray,
    bias: np.ndarray,
    step: int,
    *,
    codec: int = 1,
    out_scale: float = 0.125,
    out_zp: int = -3,
) -> bytes:
    """A head blob, packed here from the format's text and not by the code under test."""
    classes, features = weights.shape
    flat = weights.reshape(-1).astype(np.int64)
    if codec == 0:
        packed = b"".join(struct.pack("<i", int(v)) for v in flat)
    elif codec == 1:
        packed = bytes(int(v) & 255 for v in flat)
    else:
        digits = [int(v) & 15 for v in flat] + [0] * (len(flat) % 2)
        packed = bytes(low | high << 4 for low, high in zip(digits[::2], digits[1::2], strict=True))
    header = struct.pack("<BBBbHHIf", 1, 1, codec, out_zp, classes, features, step, out_scale)
    return header + packed + bytes(-len(packed) % 4) + b"".join(struct.pack("<i", int(v)) for v in bias)


def random_rate(rng: np.random.Generator, low: int, high: int) -> Rate:
    """A rate with a shift in low..high."""
    return Rate(int(rng.integers(1 << 14, 1 << 15)), int(rng.integers(low, high + 1)))


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    here = Path(__file__).parent
    runner = Runner(build(tmp_path_factory.mktemp("train") / "runner", here / "runner.c"))
    yield runner
    runner.close()
