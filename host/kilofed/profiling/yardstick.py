"""What others take for the same models: TFLite Micro with CMSIS-NN, and the records of MLPerf Tiny.

TFLite Micro with CMSIS-NN: GCC 12.2, measured 2026. Instructions executed under QEMU in one inference,
outputs equal to the `tflite-micro` wheel's; TFLite Micro's own optimisation levels (-Os for its core, -O2 for
kernels), on M4F CMSIS-NN's inline-assembly requantization where that is faster, on M55 -Ofast. Flash is code
and tables of a minimal binary with only the operators needed, without the model; arena is what the
interpreter reports as used. Cycles are modelled with timings of the manuals that `kilofed.profiling.cycles`
names.

Records: the best published results of MLPerf Tiny (closed division, v1.0 to v1.3; commercial engines on
silicon, from flash with wait states), as cycles = clock / throughput.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Yardstick:
    """One model. By core: executed instructions and modelled cycles of an inference, bytes of flash and
    arena, and cycles of the record.

    flash and arena were weighed on some cores only; see `flash_of` and `arena_of`.
    """

    title: str
    macs: int
    instructions: Mapping[str, int]
    arena: Mapping[str, int]
    flash: Mapping[str, int]
    cycles: Mapping[str, int] = field(default_factory=dict)
    record: Mapping[str, int] = field(default_factory=dict)

    def arena_of(self, core: str) -> int:
        """Weighed on M4F and M55; the cores without MVE take the M4F's."""
        return self.arena.get(core, self.arena["m4f"])

    def flash_of(self, core: str) -> int:
        """Weighed on M0, M4F and M55; M3, M7 and M33 take the M4F's."""
        return self.flash.get(core, self.flash["m4f"])


YARDSTICKS: Mapping[str, Yardstick] = {
    "kws": Yardstick(
        title="KWS DS-CNN",
        macs=2_657_000,
        instructions={
            "m0": 29_000_000, "m3": 10_530_000, "m4f": 7_230_000, "m7": 7_650_000, "m55": 1_787_000
        },
        arena={"m4f": 22_820, "m55": 27_348},
        flash={"m0": 58_476, "m4f": 53_488, "m55": 45_016},
        cycles={"m0": 41_000_000, "m3": 16_600_000, "m4f": 9_100_000},
        record={"m0": 30_400_000, "m4f": 5_180_000, "m33": 4_650_000, "m7": 3_170_000},
    ),
    "ic": Yardstick(
        title="IC ResNet-8",
        macs=12_500_000,
        instructions={
            "m0": 97_560_000, "m3": 41_850_000, "m4f": 28_510_000, "m7": 30_030_000, "m55": 4_811_000
        },
        arena={"m4f": 54_996, "m55": 55_028},
        flash={"m0": 56_016, "m4f": 50_812, "m55": 41_744},
        cycles={"m0": 141_000_000, "m3": 68_000_000, "m4f": 36_300_000},
        record={"m0": 97_400_000, "m4f": 19_800_000, "m33": 16_700_000, "m7": 11_400_000},
    ),
    "ad": Yardstick(
        title="AD autoencoder",
        macs=264_000,
        instructions={"m0": 1_763_000, "m3": 956_000, "m4f": 573_000, "m7": 583_000, "m55": 150_000},
        arena={"m4f": 2_580, "m55": 9_268},
        flash={"m0": 32_676, "m4f": 28_252, "m55": 20_420},
        cycles={"m0": 2_500_000, "m3": 1_600_000, "m4f": 720_000},
        record={"m0": 2_620_000, "m4f": 486_000, "m33": 495_000, "m7": 303_000},
    ),
    "vww": Yardstick(
        title="VWW MobileNetV1-0.25",
        macs=7_490_000,
        instructions={
            "m0": 86_900_000, "m3": 31_960_000, "m4f": 24_100_000, "m7": 24_030_000, "m55": 6_433_000
        },
        arena={"m4f": 100_708, "m55": 100_772},
        flash={"m0": 58_476, "m4f": 53_680, "m55": 45_016},
        cycles={"m0": 123_000_000, "m3": 50_000_000, "m4f": 28_800_000},
    ),
    "mnist": Yardstick(
        title="a small CNN for MNIST",
        macs=290_000,
        instructions={
            "m0": 3_890_000, "m3": 1_830_000, "m4f": 1_510_000, "m7": 1_620_000, "m55": 514_000
        },
        arena={"m4f": 9_332, "m55": 9_380},
        flash={"m0": 52_692, "m4f": 46_364, "m55": 37_288},
    ),
}  # fmt: skip
"""Name of a model in the bench -> its yardstick."""
