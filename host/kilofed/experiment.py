"""A run with devices of our own: their samples are known, so there is a test set, and there are baselines.

What a real host cannot do is done here only: measuring on a test set, training each device alone, training on
all data in one place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kilofed.baselines import compute_baselines
from kilofed.boards import catalogue
from kilofed.capture import CaptureWriter
from kilofed.errors import RunMismatchError
from kilofed.federation import is_finished, resume_or_create, run_federation
from kilofed.fleet import Fleet
from kilofed.laboratory import NATIVE, PI, Laboratory, Place
from kilofed.live import Live
from kilofed.rounds.config import RunConfig
from kilofed.rounds.globalmodel import GlobalModel
from kilofed.rounds.records import RunEvent
from kilofed.samples import Samples, deal
from kilofed.store import DATABASE, Run
from kilofed.transports.broker import Broker
from kilofed_tools import evaluate, heads
from kilofed_tools.errors import DataError

#: What a run says that lets sessions be in the clear.
INSECURE = (
    "WARNING: this run takes devices in the clear (--insecure): anybody on the line can read updates, and"
    " change them. For the bench only"
)
#: The register of a run's own devices, in its folder.
FLEET = "fleet.sqlite"
DEVICES = "devices"

MOST_SAMPLES = 200  # a device is given when nothing else is asked for
TEST_SHARE = 5  # one in so many samples of a file is kept for the test set


def run_experiment(
    folder: Path,
    places: Sequence[Place],
    *,
    model: Path,
    config: RunConfig,
    test: Samples | None = None,
    ports: Sequence[str] = (),
    listen: tuple[str, int] | None = None,
    announce: bool = False,
    mqtt: Broker | None = None,
    expected: int | None = None,
    fleet: Path | None = None,
    anybody: bool = False,
    insecure: bool = False,
    capture: Path | None = None,
    command: str = "",
    observers: Sequence[Callable[[RunEvent], None]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Starts the devices of `places`, runs the run in `folder` to its end (True) or until a signal (False).

    A run that is there goes on; one without a round yet is begun anew when model, settings or places are
    others. model: the .tflite everybody holds. ports: of further devices, serial ports or URLs pyserial
    knows; listen: host and port to take further devices on over TCP, announce: say so by mDNS; mqtt: a
    broker to take them over. expected: devices to wait for, all places and ports by default. fleet: the
    register of who is let in, the run's own by default; anybody: whoever comes is, which needs insecure, as
    a stranger has no key. insecure: sessions may be in the clear, for the bench. test: to measure the
    global head on. capture: a file for every byte on the lines (kilofed.capture), which goes on where it
    ends. command: the command line that does the same again, for the report. observers: told every event.
    say: told what is being done. Afterwards the folder holds model.tflite and the figures of a report.

    Call it from the main thread: SIGINT, SIGTERM and SIGHUP end it in good order. Raises BoardError for what
    cannot be built, flashed or started, StoreError for the folder, RoundError for a federation that cannot go
    on.
    """
    content = model.read_bytes()
    before = (folder / DATABASE).is_file()
    run, resumed = resume_or_create(folder, config=config, model=content)
    if before and not resumed and fleet is None:
        _forget_devices(folder)
    with run, Fleet(fleet or folder / FLEET) as register:
        if run.last_round:
            check_places(run, places)
        elif "placed" in run.figures():  # in vain, maybe to others
            run.put_figures({"placed": _placed(run, places)})
        if before and not resumed:
            say(f"the run in {folder} had no round yet: it is begun anew with these settings")
        if is_finished(run) and run.figures().get("finished") == run.last_round:
            say(f"the run in {folder} is finished; ask for more rounds to go on, or name another folder")
            return True
        if resumed:
            say(f"going on with the run in {folder}, after round {run.last_round} of {config.rounds}")
        put_circumstances(run, places, command, insecure=insecure)
        if register.warning:
            say(f"warning: {register.warning}")
        if insecure:
            say(INSECURE)
            run.note(INSECURE)  # so that its report tells it too
        if not is_finished(run):
            live = Live(folder)
            if capture is not None or run.figures().get("capture"):  # where a monitor finds it
                run.put_figures({"capture": None if capture is None else str(capture.resolve())})
            with contextlib.ExitStack() as stack:
                laboratory = stack.enter_context(
                    Laboratory(
                        folder / DEVICES, places, model=model, fleet=register, seed=config.seed, say=say
                    )
                )
                taken = (
                    None if capture is None else stack.enter_context(CaptureWriter(capture, on_trouble=say))
                )
                laboratory.prepare()
                done = run_federation(
                    run,
                    expected=len(places) + len(ports) if expected is None else expected,
                    ports=[*ports, *laboratory.ports],
                    listen=listen,
                    announce=announce,
                    mqtt=mqtt,
                    on_listening=laboratory.start_callers if laboratory.has_callers else None,
                    fleet=register,
                    anybody=anybody,
                    insecure=insecure,
                    measure=None if test is None else measure_on(content, test),
                    observers=[*observers, live],
                    watch=lambda: _look(laboratory, live),
                    capture=taken,
                )
            if not done:
                return False
        put_figures(run, places, test, say)
    return True


def _forget_devices(folder: Path) -> None:
    """Removes a run's own register: the ids of its devices follow from the seed, which may be another now."""
    for suffix in ("", "-wal", "-shm"):
        (folder / f"{FLEET}{suffix}").unlink(missing_ok=True)


def _look(laboratory: Laboratory, live: Live) -> None:
    laboratory.check()
    live.flush()


def measure_on(model: bytes, test: Samples) -> Callable[[GlobalModel], float]:
    """A function that gives the accuracy of a run's int8 head on a test set; the backbone runs once, here."""
    rows = evaluate.features(model, test.inputs)

    def measure(trained: GlobalModel) -> float:
        return evaluate.head_accuracy(trained.head, rows, test.labels, trained.spec)

    return measure


def check_places(run: Run, places: Sequence[Place]) -> None:
    """RunMismatchError when the run's samples were dealt to other devices than `places`.

    What was stored, and the comparison with each device alone, would not belong to what comes.
    """
    before = run.figures().get("placed")
    if before is not None and before != _placed(run, places):
        raise RunMismatchError(
            f"the run in {run.folder} was dealt to {len(before)} devices ({', '.join(before)}), and these"
            " are others, or hold other samples",
            "start it as it was started, or start a new run in another folder",
            path=str(run.folder),
        )


def _placed(run: Run, places: Sequence[Place]) -> dict[str, list[int]]:
    """A device's name -> [C] samples of each class, its held-out ones included."""
    classes = heads.find_head(run.model_of(0)).classes
    return {p.name: np.bincount(p.samples.labels, minlength=classes).tolist() for p in places}


def put_circumstances(run: Run, places: Sequence[Place], command: str, *, insecure: bool = False) -> None:
    """What the report tells of a run's beginnings: versions, the command, and which samples went where.

    "placed": a device's name -> [C] samples of each class, its held-out ones included.
    """
    from kilofed import __version__

    known: dict[str, object] = {"version": __version__}
    if places:
        known["placed"] = _placed(run, places)
    if command:
        known["command"] = command
    if insecure:  # once said, it stays said: a run that goes on is as trustworthy as its least part
        known["insecure"] = True
    run.put_figures(known)


def put_figures(run: Run, places: Sequence[Place], test: Samples | None, say: Callable[[str], None]) -> None:
    """The figures of a run that is done.

    Baselines, and the exported file's accuracy under a TFLite runtime.
    """
    if places:
        say("training each device alone, and all data in one place, for comparison")
        shards = {place.name: place.samples for place in places}
        baselines = compute_baselines(run.model_of(0), shards, run.config, test=test)
        run.put_figures({"baselines": baselines.as_json()})
    if test is not None:
        confusion = evaluate.confusion(run.model_path.read_bytes(), test.inputs, test.labels)
        run.put_figures(
            {
                "exported": float(np.trace(confusion)) / len(test),
                "confusion": confusion.tolist(),
                "test_samples": len(test),
            }
        )
    run.put_figures({"finished": run.last_round})


def make_places(
    pool: Samples,
    boards: Sequence[str],
    *,
    samples: int | None = None,
    alpha: float = 0.3,
    seed: int = 1,
    link: str = catalogue.SERIAL,
) -> list[Place]:
    """Places for devices of the boards named (of the catalogue, or "posix" or "pi"), each with its mixture of
    labels.

    link: how the boards among them reach the host. samples: a device; by default an equal part of the pool,
    at most MOST_SAMPLES. A board never gets more than its ring holds. DataError when the pool is too small.
    """
    share = min(len(pool) // max(1, len(boards)), MOST_SAMPLES) if samples is None else samples
    rings = [
        share if name in (NATIVE, PI) else min(share, catalogue.load(name).ring_slots) for name in boards
    ]
    if not boards or min(rings) < 1:
        raise DataError(f"{len(pool)} samples do not go round {len(boards)} devices", "start fewer devices")
    counts: dict[str, int] = {}
    places = []
    for board, shard in zip(boards, deal(pool, rings, alpha=alpha, seed=seed), strict=True):
        counts[board] = counts.get(board, 0) + 1
        places.append(Place(_name(board, counts[board]), board, shard, link))
    return places


def split_test(samples: Samples, *, seed: int = 1) -> tuple[Samples, Samples]:
    """(pool, test): one in TEST_SHARE samples, chosen at random, is the test set."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(samples)).astype(np.int64)
    cut = len(samples) // TEST_SHARE
    return samples.take(order[cut:]), samples.take(order[:cut])


def _name(board: str, number: int) -> str:
    """A device's name: as much of the board's as fits 12 bytes beside the number."""
    tail = f"-{number}"
    return board[-(12 - len(tail)) :].lstrip("-") + tail
