"""Labels for what a sensor shows, on the host's side: said until they are answered, and for one window."""

from __future__ import annotations

from tests.link_world import World

from kilofed.labelling import Labelling, Prediction, Trouble
from kilofed.link.events import DeviceError, LabelAnswered, WindowSeen
from kilofed.link.messages import Label, Labelled, Message, Seen, Watch, encode


def said(world: World) -> list[Message]:
    """What the host says now."""
    world.host.poll(world.now)
    pieces = [piece for piece in world.host.data_to_send().split(b"\0") if piece]
    return [message for message in map(world.tap.read, pieces) if isinstance(message, Watch | Label)]


def hear(world: World, seen: Seen) -> list[object]:
    """The host's events when the device says this."""
    assert world.device._session is not None
    world.host.events()
    world.host.receive(world.device._session.seal(encode(seen)), world.now)
    return [event for event in world.host.events() if isinstance(event, WindowSeen | LabelAnswered)]


def opened() -> World:
    world = World()
    world.open()
    world.flush()
    return world


def test_a_watch_is_renewed_until_it_is_over() -> None:
    world = opened()
    world.host.watch(9)
    asked = []
    for _ in range(30):
        asked += said(world)
        world.now += 0.5
        hear(world, Seen(0, 0, 0))
    assert all(isinstance(message, Watch) for message in asked)
    times = [message.ms for message in asked if isinstance(message, Watch)]
    assert len(times) >= 4
    assert times[0] == 6000
    assert times == sorted(times, reverse=True)
    assert times[-1] == 0, "and then no longer"


def test_a_label_is_said_until_it_is_answered() -> None:
    world = opened()
    assert hear(world, Seen(0, 0, 0)) == [], "nothing was seen yet"
    assert hear(world, Seen(7, 3, 200)) == [WindowSeen(7, 3, 200)]
    world.host.label(7, 2)
    assert said(world) == [Label(7, 2)]
    assert said(world) == []
    world.now += 1.0
    assert said(world) == [Label(7, 2)], "its answer may be lost"
    assert hear(world, Seen(6, 2, 0, Labelled.TAKEN)) == [], "the answer to another one"
    assert hear(world, Seen(8, 1, 9)) == [WindowSeen(8, 1, 9)], "what is seen meanwhile is no answer"
    assert hear(world, Seen(7, 2, 0, Labelled.TAKEN)) == [LabelAnswered(7, 2, Labelled.TAKEN)]
    assert hear(world, Seen(7, 2, 0, Labelled.TAKEN)) == []
    world.now += 1.0
    assert said(world) == []


def test_a_training_may_hold_the_samples_for_long() -> None:
    world = opened()
    world.host.label(3, 1)
    repeats = 0
    for _ in range(120):
        if said(world):
            repeats += 1
            assert hear(world, Seen(3, 1, 0, Labelled.BUSY)) == []
        hear(world, Seen(3, 0, 9))
        world.now += 0.25
    assert repeats > 10, "no number of such answers ends the session"
    assert hear(world, Seen(3, 1, 0, Labelled.GONE)) == [LabelAnswered(3, 1, Labelled.GONE)]


def test_a_device_that_shows_nothing_says_so() -> None:
    world = opened()
    world.host.watch(60)
    world.host.poll(world.now)
    world.device.receive(world.host.data_to_send(), world.now)
    world.host.receive(world.device.data_to_send(), world.now)
    told = [event for event in world.host.events() if isinstance(event, DeviceError)]
    assert [(event.code, event.detail) for event in told] == [(4, Watch.TYPE)]
    world.now += 3
    assert said(world) == [], "and it is not asked again"


def test_a_device_that_names_no_class_of_its_model_stops_nothing() -> None:
    labelling = Labelling(None, ("rest", "shake"))  # type: ignore[arg-type]
    (told,) = labelling._take(WindowSeen(1, 65535, 0))
    assert isinstance(told, Trouble)
    assert labelling._label("rest") == [Trouble("the device has shown nothing yet")]
    assert labelling._take(WindowSeen(2, 1, 255)) == [Prediction(2, "shake", 1.0)]
