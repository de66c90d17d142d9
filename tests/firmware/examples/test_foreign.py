"""The example of a foreign backbone: TensorFlow Lite Micro gives features, and the head learns from them what
a device with an engine of its own learns.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kilofed
from kilofed.rounds.config import device_seed
from kilofed_tools import cut, heads, trainer, updates
from kilofed_tools.evaluate import features

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "firmware" / "examples"
BUILD = ROOT / "build" / "tests" / "foreign"
TOOLS = ("cmake", "ninja", "gcc")
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -g"
FRAMES = 100

pytest.importorskip("tflite_micro")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"
)


@pytest.fixture(scope="module")
def model() -> bytes:
    """The whole model."""
    return kilofed.digits_model_path().read_bytes()


@pytest.fixture(scope="module")
def records(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the other engine gives: labels and features."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "backbone.tflite").write_bytes(cut.backbone(model))
    frames = folder / "frames"
    subprocess.run([sys.executable, EXAMPLES / "sensor" / "make_frames.py", frames, str(FRAMES)], check=True)
    engine = [sys.executable, EXAMPLES / "foreign" / "engine.py", folder / "backbone.tflite", frames]
    return subprocess.run(engine, check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="module")
def program(model: bytes) -> Path:
    """The application. Its own files have warnings as errors, as the core has."""
    BUILD.mkdir(parents=True, exist_ok=True)
    head = BUILD / "head.tflite"
    head.write_bytes(cut.head(model))
    configure = ["cmake", "-G", "Ninja", "-S", EXAMPLES / "foreign", "-B", BUILD, f"-DFOREIGN_HEAD={head}"]
    configure += [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_C_FLAGS={SANITIZE}"]
    for command in (configure, ["cmake", "--build", BUILD]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stdout + done.stderr
    return BUILD / "foreign"


async def test_it_learns_what_the_whole_model_learns(
    program: Path, model: bytes, records: bytes, tmp_path: Path
) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> None:
        process = subprocess.Popen(
            [program, f"127.0.0.1:{port}", "kitchen"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdin is not None
        process.stdin.write(records)
        process.stdin.close()
        process.stdin = None

    config = kilofed.RunConfig(rounds=2, epochs=5)
    run, _ = kilofed.resume_or_create(tmp_path / "run", config=config, model=cut.head(model))
    with run:
        await kilofed.federate(run, expected=1, listen=("127.0.0.1", 0), on_listening=start)
        rounds = run.rounds()
        trained = run.model_of(2)
    said = processes[0].communicate(timeout=60)[1].decode()
    assert processes[0].returncode == 0, said
    before, after = (int(n) for n in re.findall(rf"(\d+) of {FRAMES} right", said))
    assert before < 40 and after > 85, said
    whole = cut.join(model, trained)
    test = kilofed.digits_test()
    assert kilofed.accuracy(whole, test.inputs, test.labels) > 0.7

    # The update of the first round, from features of our own runtime, by the reference trainer.
    rows = np.frombuffer(records, np.uint8).reshape(FRAMES, -1)
    pool = kilofed.digits_pool()
    chosen = pool.take(np.random.default_rng(1).permutation(len(pool))[:FRAMES])
    own = features(model, chosen.inputs)
    assert np.array_equal(rows[:, 1:].view(np.int8), own), "two engines, the same features"
    spec = heads.find_head(model)
    train, _ = trainer.split(FRAMES)
    base = heads.master(heads.read_head(model))
    rates = trainer.lr_multipliers(config.lr, spec.ms, config.prox)
    seed = device_seed(config.seed, 1, b"kitchen\0")
    asked = trainer.TrainConfig(5, config.batch, *rates, seed=seed)
    x, y = own.astype(np.int64) - spec.zp_x, chosen.labels.astype(np.int64)
    result = trainer.train(*base, x[train], y[train], asked, base=base)
    expected, _ = updates.encode_update(result.W, result.b, *base, updates.Codec.INT8, None)
    assert rounds[0].taken[0].update == expected


@pytest.mark.parametrize(("cut_off", "words"), [(5, "a record has"), (0, "0 samples")])
def test_what_is_wrong_is_said(program: Path, records: bytes, cut_off: int, words: str) -> None:
    done = subprocess.run([program, "127.0.0.1:1", "kitchen"], input=records[:cut_off], capture_output=True)
    assert done.returncode == 1
    assert words in done.stderr.decode()
