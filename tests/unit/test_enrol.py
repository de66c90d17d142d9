"""Joining by a one-time code: the code, the register, and kilofed-pi through it."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import stat
import time
from pathlib import Path

import pytest
from tests.unit.test_pi import MODEL, SECONDS, Program, pi_command

from kilofed.boards import settings as page
from kilofed.enrol import ALPHABET, identity_of, new_code
from kilofed.errors import FleetError
from kilofed.federation import federate, resume_or_create
from kilofed.fleet import ENROL_SECONDS, Device, Fleet, new_identity
from kilofed.rounds.config import Deadlines, RunConfig


def test_a_code_is_read_as_people_write_it() -> None:
    code = new_code(random.Random(1).randbytes)
    assert len(code) == 29 and set(code) <= {*ALPHABET, "-"}
    wanted = identity_of(code)
    assert (len(wanted[0]), len(wanted[1])) == (8, 32)
    for typed in (code.lower(), code.replace("-", ""), f" {code.replace('-', ' ')} "):
        assert identity_of(typed) == wanted
    assert identity_of(code.replace("1", "l").replace("0", "O")) == wanted
    other = ("0" if code[0] != "0" else "2") + code[1:]
    assert identity_of(other)[0] != wanted[0] and identity_of(other)[1] != wanted[1]
    for bad in ("", code[:-1], code + "2", "U" * 25, "\u00e4" * 25):
        with pytest.raises(FleetError, match="no enrolment code"):
            identity_of(bad)
    assert len({new_code() for _ in range(20)}) == 20


def enrolled(fleet: Fleet, code: str, **changes: object) -> Device:
    device_id, key = identity_of(code)
    device = dataclasses.replace(
        new_identity("attic", "pi", device_id=device_id), key=key, enrolling=True, **changes
    )  # type: ignore[arg-type]
    fleet.add(device)
    return device


def test_a_code_is_void_after_its_time_or_its_use(tmp_path: Path) -> None:
    made = bytes(range(32))
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        device = enrolled(fleet, new_code())
        assert fleet.keys(device.id) == (device.key,) and fleet.find("attic").enrolling
        assert fleet.enrolled(device.id, device.key, made)
        assert fleet.keys(device.id) == (made, device.key), "the device may not have kept it"
        assert fleet.used(device.id, made) and fleet.keys(device.id) == (made,)
        assert not fleet.find("attic").enrolling
        assert not fleet.enrolled(device.id, made, bytes(31) + b"x"), "it was no code's"
        fleet.remove("attic")
        late = enrolled(fleet, new_code(), created=time.time() - ENROL_SECONDS - 1)
        assert fleet.keys(late.id) == ()


async def test_kilofed_pi_joins_once_and_has_a_key_of_its_own(tmp_path: Path) -> None:
    code = new_code()
    settings = tmp_path / "attic.bin"
    deadlines = Deadlines(gather=30.0, head=10.0, round=30.0, rejoin=2.0, goodbye=2.0)
    config = RunConfig(rounds=1, epochs=1, personal_epochs=0, deadlines=deadlines)
    programs: list[Program] = []

    async def run_once(folder: str, *options: str) -> list[str]:
        run, _ = resume_or_create(tmp_path / folder, config=config, model=MODEL.read_bytes())

        def start(port: int) -> None:
            command = pi_command(port, tmp_path, "--settings", str(settings), "--name", "attic", *options)
            programs.append(Program(command, tmp_path / f"{folder}.log"))
            starting.append(asyncio.ensure_future(programs[-1].__aenter__()))

        starting: list[asyncio.Future[Program]] = []
        with run:
            await asyncio.wait_for(
                federate(run, expected=1, listen=("127.0.0.1", 0), on_listening=start, fleet=fleet), SECONDS
            )
            assert [[part.name for part in r.taken] for r in run.rounds()] == [["attic"]]
            notes = [note.text for note in run.notes()]
        for started in starting:
            await started
        await programs[-1].__aexit__(None, None, None)
        return notes

    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        device = enrolled(fleet, code)
        await run_once("first", "--enroll", code)
        assert stat.S_IMODE(settings.stat().st_mode) == 0o600
        kept = page.decode(settings.read_bytes())
        assert kept.id == device.id and kept.key != device.key
        assert fleet.keys(device.id) == (kept.key, device.key)
        notes = await run_once("second")
        assert any("uses its new key" in note for note in notes)
        assert fleet.keys(device.id) == (kept.key,), "and the code is void"
