"""What a run keeps for its report, and what the page makes of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.memory_fleet import model_bytes
from tests.report_run import NAMES, make_run

from kilofed.experiment import make_places, put_circumstances, put_figures
from kilofed.federation import resume_or_create
from kilofed.laboratory import NATIVE
from kilofed.page.facts import facts_of
from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import Ending, Kind, RoundRecord
from kilofed.samples import digits_pool, digits_test
from kilofed.store import open_run
from kilofed_tools import evaluate

CONFIG = RunConfig(rounds=1, personal_epochs=0)


def test_a_run_keeps_what_its_report_tells(tmp_path: Path) -> None:
    places = make_places(digits_pool(), [NATIVE, NATIVE], samples=50, seed=3)
    test = digits_test()
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=model_bytes())
    with run:
        put_circumstances(run, places, "kilofed run --native 2")
        put_circumstances(run, [], "")  # gone on with where there are no samples and no command line
        figures = run.figures()
        assert figures["command"] == "kilofed run --native 2"
        assert set(figures["placed"]) == {"posix-1", "posix-2"}
        for place in places:
            counts = figures["placed"][place.name]
            assert counts == [int((place.samples.labels == c).sum()) for c in range(10)]
        record = RoundRecord(1, Kind.TRAIN, Ending.COMPLETE, 0.0, 0.0, "", ())
        run.commit(record, master=b"m", model=model_bytes())
        put_figures(run, places, test, lambda text: None)
        figures = run.figures()
    confusion = np.array(figures["confusion"])
    assert confusion.sum(axis=1).tolist() == np.bincount(test.labels, minlength=10).tolist()
    assert figures["exported"] == np.trace(confusion) / len(test)
    assert figures["exported"] == evaluate.accuracy(model_bytes(), test.inputs, test.labels)
    assert figures["finished"] == 1


def test_a_confusion_counts_each_sample_once() -> None:
    samples = np.random.default_rng(1).integers(-128, 128, (10, 784), np.int8)
    labels = np.array([0] * 4 + [3] * 6)
    counts = evaluate.confusion(model_bytes(), samples, labels)  # a zero head: the first class wins
    assert counts.shape == (10, 10)
    assert (counts[0, 0], counts[3, 0], counts.sum()) == (4, 6, 10)


def test_facts_of_a_device_are_its_own(tmp_path: Path) -> None:
    with open_run(make_run(tmp_path / "run")) as run:
        facts = facts_of(run)
        parts = {n: [d for r in run.rounds() for d in r.taken if d.name == n] for n in NAMES}
    for device in facts.devices:
        own = parts[device.name]
        assert device.taken == len(own)
        assert device.seconds == pytest.approx(sum(d.elapsed_ms for d in own) / len(own) / 1000)
        assert device.placed is not None
        assert len(device.placed) == 10
    assert [d.alone for d in facts.devices] == [1.0, 0.875, 0.8], "on its own held-out samples"
    assert (facts.state, len(facts.lost), facts.personal is not None) == ("finished", 2, True)


def test_figures_of_another_shape_are_not_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with open_run(folder, write=True) as run:
        run.put_figures({"confusion": [[1, 2], [3, 4]], "placed": {"anna": [1, 2]}})
    with open_run(folder) as run:
        facts = facts_of(run)
    assert facts.confusion is None
    assert all(d.placed is None for d in facts.devices)


def test_a_run_that_is_to_go_on_is_not_finished(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=2)
    with open_run(folder, write=True) as run:
        run.set_config(replace(run.config, rounds=5))
        assert facts_of(run).state == "going on"
    with open_run(folder) as run:
        assert facts_of(run).state == "stopped"
