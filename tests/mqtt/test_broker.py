"""Devices over a real broker: mosquitto, started here with passwords, certificates, and ends of its own."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kilofed.store import open_run

pytest.importorskip("paho.mqtt.client")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
PASSWD = shutil.which("mosquitto_passwd")
pytestmark = pytest.mark.skipif(
    MOSQUITTO is None or PASSWD is None, reason="no broker here: apt-get install mosquitto"
)

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits" / "digits.tflite"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / p) for p in ("tools", "host", "firmware/pi"))}
KILOFED = [sys.executable, "-c", "from kilofed.cli import main; main()"]
SECONDS = 90.0  # for a run of a few rounds, on a loaded machine


class Mosquitto:
    """A broker of this machine: a user `kilofed`, and TLS when it has certificates."""

    def __init__(self, folder: Path, *, tls: tuple[Path, Path] | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        users, self.password = folder / "users", folder / "password"
        subprocess.run([str(PASSWD), "-b", "-c", str(users), "kilofed", "open sesame"], check=True)
        users.chmod(0o644)
        self.password.write_text("open sesame\n")
        self.password.chmod(0o600)
        lines = [f"listener {self.port} 127.0.0.1", f"password_file {users}", "allow_anonymous false"]
        lines += ["persistence false", "user root" if os.getuid() == 0 else ""]
        if tls is not None:
            lines += [f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        self.config = folder / "mosquitto.conf"
        self.config.write_text("\n".join(lines) + "\n")
        self.url = f"mqtt{'s' if tls else ''}://kilofed@127.0.0.1:{self.port}/attic/kilofed"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([str(MOSQUITTO), "-c", str(self.config)], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, "the broker does not start"
            time.sleep(0.05)
        raise AssertionError("the broker does not listen")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen[bytes]]]]:
    """Starts kilofed-pi devices: of these names, with 40 samples each, connecting there."""
    started: list[subprocess.Popen[bytes]] = []

    def start(connect: list[str], *names: str) -> list[subprocess.Popen[bytes]]:
        for index, name in enumerate(names):
            folder = tmp_path / name
            make = [*KILOFED, "pi", "--name", name, "--samples", "40", "--seed", str(index + 1)]
            make += ["--out", str(folder), "--fleet", str(tmp_path / "fleet.sqlite"), "--replace"]
            subprocess.run(make, check=True, env=ENV, capture_output=True)
            command = [sys.executable, "-m", "kilofed_pi", "--connect", *connect, "--model", str(MODEL)]
            command += ["--settings", str(folder / "settings.bin"), "--samples", str(folder / "samples.bin")]
            log = (tmp_path / f"{name}.log").open("wb")
            started.append(subprocess.Popen(command, env=ENV, stderr=log))
            log.close()
        return started

    yield start
    for device in started:
        device.kill()
        device.wait()


def host(tmp_path: Path, out: str, *options: str) -> subprocess.Popen[str]:
    command = [*KILOFED, "run", "--model", str(MODEL), "--fleet", str(tmp_path / "fleet.sqlite")]
    command += ["--out", str(tmp_path / out), "--json", *options]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """Its errors; it must have ended well."""
    try:
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return errors


def updates(folder: Path) -> dict[tuple[int, str], bytes | None]:
    with open_run(folder) as run:
        return {(r.number, d.name): d.update for r in run.rounds() for d in r.taken}


def test_a_run_over_a_broker_is_the_run_over_tcp(
    broker: Mosquitto, devices: Callable[..., list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    secret = ["--mqtt-password", str(broker.password)]
    first = devices([broker.url, *secret], "attic", "cellar")
    run = host(tmp_path, "mqtt", "--mqtt", broker.url, *secret, "--expect", "2", "--rounds", "3")
    ended(run)
    over_mqtt = updates(tmp_path / "mqtt")
    assert len(over_mqtt) == 6
    for device in first:
        device.send_signal(signal.SIGTERM)
        assert device.wait(20) == 0
    # Ids are part of each training's seed: the same devices, over TCP.
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    again = []
    try:
        for name in ("attic", "cellar"):
            command = [sys.executable, "-m", "kilofed_pi", "--connect", address, "--model", str(MODEL)]
            command += ["--settings", str(tmp_path / name / "settings.bin")]
            command += ["--samples", str(tmp_path / name / "samples.bin")]
            again.append(subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL))
        ended(host(tmp_path, "tcp", "--listen", address, "--expect", "2", "--rounds", "3"))
    finally:
        for device in again:
            device.kill()
            device.wait()
    assert updates(tmp_path / "tcp") == over_mqtt


def test_a_broker_that_is_killed_costs_no_round(
    broker: Mosquitto, devices: Callable[..., list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    secret = ["--mqtt-password", str(broker.password)]
    devices([broker.url, *secret], "attic", "cellar")
    options = ["--mqtt", broker.url, *secret, "--expect", "2", "--rounds", "12", "--personal-epochs", "0"]
    run = host(tmp_path, "run", *options, "--epochs", "20")
    try:
        until = time.monotonic() + SECONDS
        done = 0
        while done < 2 and time.monotonic() < until and run.poll() is None:
            time.sleep(0.05)
            with contextlib.suppress(Exception), open_run(tmp_path / "run") as live:
                done = live.last_round
        assert run.poll() is None, "it is still running when the broker goes"
        broker.stop()
        time.sleep(0.5)
        broker.start()
    finally:
        errors = ended(run)
    assert "has gone" in errors
    assert len({number for number, _ in updates(tmp_path / "run")}) == 12


def test_a_device_that_is_killed_holds_up_no_run(
    broker: Mosquitto, devices: Callable[..., list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    secret = ["--mqtt-password", str(broker.password)]
    started = devices([broker.url, *secret], "attic", "cellar")
    options = ["--mqtt", broker.url, *secret, "--expect", "2", "--rounds", "6", "--personal-epochs", "0"]
    run = host(tmp_path, "run", *options, "--quorum", "0.5", "--rejoin", "1")
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and run.poll() is None:
        with contextlib.suppress(Exception), open_run(tmp_path / "run") as live:
            if live.last_round >= 1:
                break
        time.sleep(0.02)
    started[1].kill()
    ended(run)
    with open_run(tmp_path / "run") as finished:
        assert len(finished.rounds()) == 6
        assert "attic" in {d.name for d in finished.rounds()[-1].taken}


def refused(tmp_path: Path, *options: str) -> str:
    run = host(tmp_path, "never", *options, "--expect", "1", "--rounds", "1")
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 1, errors
    return errors


def test_what_is_wrong_has_its_next_step(broker: Mosquitto, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nonsense")
    wrong.chmod(0o600)
    said = refused(tmp_path, "--mqtt", broker.url, "--mqtt-password", str(wrong))
    assert "check the user and the password file" in said
    assert "nonsense" not in said
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "check the address" in refused(tmp_path, "--mqtt", f"mqtt://127.0.0.1:{port}")
    for url in ("mqtt://user:secret@127.0.0.1", "http://127.0.0.1", "mqtt://h/a+b"):
        run = host(tmp_path, "never", "--mqtt", url, "--expect", "1")
        _, errors = run.communicate(timeout=30)
        assert run.returncode == 2
        assert "mqtt" in errors or "password" in errors


def test_two_hosts_of_one_prefix_are_told_apart(
    broker: Mosquitto, devices: Callable[..., list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    secret = ["--mqtt-password", str(broker.password)]
    devices([broker.url, *secret], "attic")
    options = ["--mqtt", broker.url, *secret, "--expect", "2", "--rounds", "1"]
    first = host(tmp_path, "first", *options)
    try:
        time.sleep(6)
        said = refused(tmp_path, "--mqtt", broker.url, *secret)
        assert "another host serves" in said
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def authority(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """A certificate that vouches for itself, for 127.0.0.1: (certificate, key, what a client trusts)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private, certificate


def test_tls_to_the_broker(devices: Callable[..., list[subprocess.Popen[bytes]]], tmp_path: Path) -> None:
    certificate, key, trusted = authority(tmp_path, "broker")
    _, _, stranger = authority(tmp_path, "stranger")
    made = Mosquitto(tmp_path, tls=(certificate, key))
    try:
        ways = ["--mqtt-password", str(made.password), "--mqtt-ca"]
        devices([made.url, *ways, str(trusted)], "attic")
        run = host(tmp_path, "tls", "--mqtt", made.url, *ways, str(trusted), "--expect", "1", "--rounds", "2")
        ended(run)
        assert len(updates(tmp_path / "tls")) == 2
        said = refused(tmp_path, "--mqtt", made.url, *ways, str(stranger))
        assert "is not to be trusted" in said
        assert "--mqtt-ca" in said
    finally:
        made.stop()


def test_garbage_on_the_topics_disturbs_nobody(
    broker: Mosquitto, devices: Callable[..., list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    from paho.mqtt import client as library

    stranger = library.Client(library.CallbackAPIVersion.VERSION2, "stranger", protocol=library.MQTTv5)
    stranger.username_pw_set("kilofed", "open sesame")
    stranger.connect("127.0.0.1", broker.port)
    stranger.loop_start()
    root = "attic/kilofed/v1/"
    stranger.publish(f"{root}0011223344556677/up", b"retained\0", qos=1, retain=True)
    stranger.publish(f"{root}host", b"\xff\xfe", qos=1, retain=True).wait_for_publish(10)
    secret = ["--mqtt-password", str(broker.password)]
    devices([broker.url, *secret], "attic")
    run = host(tmp_path, "run", "--mqtt", broker.url, *secret, "--expect", "1", "--rounds", "3")
    while run.poll() is None:
        for topic in ("nobody/up", "0011223344556677/up", "0011223344556677/here", "x/y/z", "host"):
            stranger.publish(root + topic, os.urandom(200) + b"\0")
        stranger.publish(f"{root}0011223344556677/up", bytes(7000))
        time.sleep(0.1)
    errors = ended(run)
    stranger.loop_stop()
    stranger.disconnect()
    assert len(updates(tmp_path / "run")) == 3
    assert "messages that are no device's are ignored" in errors
    assert "Traceback" not in errors
