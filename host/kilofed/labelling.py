"""Labels for what a device's sensor shows: watch one device, and say what its newest window was.

    async for event in Labelling(connection, labels).run(answers): show(event)

The device keeps the features of the newest window and nothing older, so a label is for that one: the number
that goes with it sees to it that the two sides mean the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kilofed.connection import Connection
from kilofed.errors import ConfigError
from kilofed.link import events as ev
from kilofed.link.messages import NO_HASH, Labelled
from kilofed_tools.metadata import encode_labels

WATCH_SECONDS = 3600.0  # asked for anew at each session; the endpoint renews it on the line
ANSWER_SECONDS = 10.0  # that a last label waits for its answer, a training that holds the samples included


@dataclass(frozen=True)
class Joined:
    """A device is there: its name on this host, and the samples it keeps."""

    device: str
    samples: int


@dataclass(frozen=True)
class Prediction:
    """What the device takes its newest window for; score: the model's output for it, 0 to 1."""

    number: int
    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What became of a label that was sent; taken: it is a sample now. why: in words, when it is not."""

    number: int
    label: str
    taken: bool
    why: str = ""


@dataclass(frozen=True)
class Trouble:
    """Something that the person should know: a word that is no label, a line that fell silent."""

    text: str


Event: TypeAlias = Joined | Prediction | Answer | Trouble

_WHY = {
    Labelled.TAKEN: "",
    Labelled.GONE: "another window had come: label sooner, or let the device show more slowly",
    Labelled.REFUSED: "the device's model has no such class",
}


class Labelling:
    """One device on an open connection. labels: of the model it runs, by class."""

    def __init__(self, connection: Connection, labels: Sequence[str], *, name: str = "") -> None:
        self._connection = connection
        self._labels = list(labels)
        self._name = name
        self._newest: ev.WindowSeen | None = None
        self._waiting = 0

    async def run(self, answers: asyncio.Queue[str | None]) -> AsyncIterator[Event]:
        """Everything that happens, until `answers` brings None or the connection ends.

        answers: what the person types: a label, its number, or nothing, which agrees with the prediction.
        Raises ConfigError when the device runs a model of other labels, or shows nothing.
        """
        events = self._connection.events()
        seen = asyncio.ensure_future(anext(events, None))
        typed = asyncio.ensure_future(answers.get())
        over = False
        try:
            while not (over and self._waiting == 0):
                tasks = [seen] if over else [seen, typed]
                limit = ANSWER_SECONDS if over else None
                done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield Trouble("the last label had no answer")
                    return
                if seen in done:
                    event = seen.result()
                    if event is None:
                        yield Trouble("the line has ended")
                        return
                    for told in self._take(event):
                        yield told
                    seen = asyncio.ensure_future(anext(events, None))
                if typed in done and not over:
                    text = typed.result()
                    over = text is None
                    if text is not None:
                        for told in self._label(text):
                            yield told
                        typed = asyncio.ensure_future(answers.get())
        finally:
            for task in (seen, typed):
                task.cancel()
            await asyncio.gather(seen, typed, return_exceptions=True)

    def _take(self, event: ev.Event) -> list[Event]:
        match event:
            case ev.Opened(hello, info):
                ours = hashlib.blake2b(encode_labels(self._labels), digest_size=8).digest()
                if info.labels not in (NO_HASH, ours) or info.classes != len(self._labels):
                    raise ConfigError(
                        "the device runs a model of other labels than --model has",
                        "give --model, the .tflite that the device was flashed with",
                    )
                self._connection.watch(WATCH_SECONDS)
                return [Joined(self._name or hello.device_id.hex(), info.train + info.held_out)]
            case ev.WindowSeen(label=label) if label >= len(self._labels):
                return [Trouble(f"the device names a class {label}, which its model does not have")]
            case ev.WindowSeen():
                self._newest = event
                return [Prediction(event.number, self._labels[event.label], event.score / 255)]
            case ev.LabelAnswered(number, label, verdict):
                self._waiting = 0
                return [Answer(number, self._labels[label], verdict is Labelled.TAKEN, _WHY[verdict])]
            case ev.DeviceError(text=text) if text == "the device shows nothing":
                raise ConfigError(
                    "the device shows nothing: its firmware has samples of its own, and no sensor",
                    "call kf_show() in the application (kilofed/device.h)",
                )
            case ev.Lost(why=why):
                self._newest, self._waiting = None, 0
                return [Trouble(f"the session ended: {why}")]
            case ev.HelloSeen(refused=refused) if refused:
                return [Trouble("a device was refused: register it, or give --insecure for the bench")]
        return []

    def _label(self, text: str) -> list[Event]:
        newest, word = self._newest, text.strip()
        if newest is None:
            return [Trouble("the device has shown nothing yet")]
        if not word:
            chosen = newest.label
        elif word in self._labels:
            chosen = self._labels.index(word)
        elif word.isdecimal() and int(word) < len(self._labels):
            chosen = int(word)
        else:
            return [Trouble(f"{word!r} is none of {', '.join(self._labels)}")]
        self._connection.label(newest.number, chosen)
        self._waiting = 1
        return []
