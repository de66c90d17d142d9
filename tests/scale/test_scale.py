"""Two hundred devices of the real core and one host process, encrypted: everybody answers; some vanish."""

from __future__ import annotations

from pathlib import Path

from tests.scale.crowd import Crowd

from kilofed.store import open_run

DEVICES = 200
VANISHING = 20


def test_every_device_of_two_hundred_answers(tmp_path: Path) -> None:
    with Crowd(tmp_path, devices=DEVICES) as crowd:
        figures = crowd.run(rounds=2)
    assert [(r.how, r.asked, r.taken, r.dropped) for r in figures.rounds] == [
        ("complete", DEVICES, DEVICES, 0),
        ("complete", DEVICES, DEVICES, 0),
    ]
    with open_run(tmp_path / "run") as run:
        assert len(run.devices()) == DEVICES
        assert [n.text for n in run.notes()] == []  # nobody was in the clear, pushed out or doubted
        for record in run.rounds():
            assert len({d.device for d in record.taken}) == DEVICES
            assert all(d.samples == 8 and d.update for d in record.taken)  # 2 of 10 are held out


def test_a_round_ends_at_its_quorum_with_those_that_are_left(tmp_path: Path) -> None:
    """One in ten falls silent once the second round has begun; their lines stay open."""
    with Crowd(tmp_path, devices=DEVICES, vanishing=VANISHING) as crowd:
        figures = crowd.run(rounds=2, quorum=(DEVICES - VANISHING) / DEVICES)
    last = figures.rounds[-1]
    assert (last.how, last.asked) == ("quorum", DEVICES)
    assert last.taken >= DEVICES - VANISHING
    with open_run(tmp_path / "run") as run:
        dropped = [d for d in run.rounds()[-1].dropped if d.name.startswith("vanish-")]
        assert all("quorum" in d.reason for d in dropped)


def test_a_round_ends_at_its_deadline_with_those_that_are_left(tmp_path: Path) -> None:
    """The same, and the quorum wants everybody: those that are silent are told from those that answered."""
    with Crowd(tmp_path, devices=DEVICES, vanishing=VANISHING) as crowd:
        figures = crowd.run(rounds=2, quorum=1.0, deadline=12.0)
    last = figures.rounds[-1]
    assert (last.how, last.asked) in (("deadline", DEVICES), ("complete", DEVICES))
    assert last.taken >= DEVICES - VANISHING
    assert last.taken + last.dropped == DEVICES
