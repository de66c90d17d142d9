"""The library's example application: built as its README says, under sanitizers, and federated by a host."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import kilofed

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "firmware" / "examples" / "sensor"
BUILD = ROOT / "build" / "tests" / "sensor"
TOOLS = ("cmake", "ninja", "gcc")
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -g"
FRAMES = 100

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"
)


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program. Its own files have warnings as errors, as the core has."""
    configure = ["cmake", "-G", "Ninja", "-S", EXAMPLE, "-B", BUILD, f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in ([*configure, f"-DCMAKE_C_FLAGS={SANITIZE}"], ["cmake", "--build", BUILD]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stdout + done.stderr
    return BUILD / "sensor"


def make_frames(path: Path, seed: int) -> Path:
    """What the camera of one of them shows."""
    subprocess.run([sys.executable, EXAMPLE / "make_frames.py", path, str(FRAMES), str(seed)], check=True)
    return path


def scores(said: str) -> list[int]:
    """How many frames were right, each time all of them had been seen."""
    return [int(right) for right in re.findall(rf"(?m)^sensor: (\d+) of {FRAMES} right", said)]


async def test_it_joins_trains_and_reads_better(sensor: Path, tmp_path: Path) -> None:
    cameras = {name: make_frames(tmp_path / name, seed) for seed, name in enumerate(("kitchen", "cellar"))}
    sensors: list[subprocess.Popen[str]] = []

    def start(port: int) -> None:
        for name, frames in cameras.items():
            command = [sensor, f"127.0.0.1:{port}", name, frames]
            sensors.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))

    config = kilofed.RunConfig(rounds=3, epochs=5)
    model = kilofed.digits_model_path().read_bytes()
    run, _ = kilofed.resume_or_create(tmp_path / "run", config=config, model=model)
    with run:
        await kilofed.federate(run, expected=2, listen=("127.0.0.1", 0), on_listening=start)
        rounds, devices = run.rounds(), run.devices()
        trained = run.model_of(3)
    said = [process.communicate(timeout=60)[1] for process in sensors]
    assert [process.returncode for process in sensors] == [0, 0], said
    assert [len(record.taken) for record in rounds] == [2, 2, 2]
    assert all(part.samples == 80 and part.held_out == 20 for part in rounds[-1].taken)
    assert {device.board for device in devices} == {"sensor"}
    for text in said:
        assert re.search(r"uses \d+ of \d+ bytes, status 0", text)
        before, *_, after = scores(text)
        assert before < 40 and after >= 85, text
    test = kilofed.digits_test()
    assert kilofed.accuracy(trained, test.inputs, test.labels) > 0.75


def test_a_person_says_what_it_sees(sensor: Path, tmp_path: Path) -> None:
    frames = make_frames(tmp_path / "frames", 3)
    digits = frames.read_bytes()[:: 1 + 784]
    frames.write_bytes(
        b"".join(b"\xff" + frames.read_bytes()[at + 1 : at + 785] for at in range(0, 785 * FRAMES, 785))
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = "from kilofed.cli import main; main()"
    options = ["--listen", address, "--anybody", "--insecure", "--fleet", tmp_path / "fleet.sqlite", "--json"]
    label = subprocess.Popen(
        [sys.executable, "-c", code, "label", *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert label.stdin is not None and label.stdout is not None
    camera = None
    taken: dict[int, str] = {}
    try:
        while camera is None:  # until somebody listens
            camera = subprocess.Popen([sensor, address, "kitchen", frames, "400"], stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                camera.wait(1)
                camera = None
        label.stdin.write("seven\n")
        label.stdin.flush()
        said = set()
        for line in label.stdout:
            event = json.loads(line)
            said.add(event["event"])
            if event["event"] == "prediction" and len(taken) < 5:
                number = event["number"]
                label.stdin.write(f"{digits[(number - 1) % FRAMES]}\n")
                label.stdin.flush()
            elif event["event"] == "answer" and event["taken"]:
                taken[event["number"]] = event["label"]
                if len(taken) == 5:
                    label.stdin.close()
        label.wait(60)
    finally:
        for process in filter(None, (label, camera)):
            process.kill()
            process.wait()
        label.stdin.close()
        label.stdout.close()
    assert label.returncode == 0
    assert said >= {"joined", "prediction", "answer", "trouble"}
    assert taken == {number: str(digits[(number - 1) % FRAMES]) for number in taken}
    assert len(taken) == 5


def test_what_is_wrong_is_said_with_a_next_step(sensor: Path, tmp_path: Path) -> None:
    empty, frames = tmp_path / "empty", make_frames(tmp_path / "frames", 1)
    frames.write_bytes(frames.read_bytes()[:785])
    empty.write_bytes(b"")
    for arguments, status, words in (
        ([], 2, "usage:"),
        (["127.0.0.1:1", "a", "/does/not/exist"], 1, "make_frames.py writes one"),
        (["127.0.0.1:1", "a", empty], 1, "no frame"),
        (["127.0.0.1:1", "a", frames], 1, "kilofed run --listen"),
        (["nowhere", "a", frames], 1, "give HOST:PORT"),
    ):
        done = subprocess.run([sensor, *arguments], capture_output=True, text=True, timeout=20)
        assert done.returncode == status, done.stderr
        assert words in done.stderr
        assert "Sanitizer" not in done.stderr
