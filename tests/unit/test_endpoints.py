"""Endpoint against endpoint in virtual time: whole rounds, sessions, orders; over good lines."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.link_world import HEAD, HOLDING, KEY, UPDATE, Round, World, finished, order, until

from kilofed.link import events as ev
from kilofed.link.blobs import blob_hash
from kilofed.link.errors import SessionError, StatusCode
from kilofed.link.frames import Direction, encode_frame, parse_frame
from kilofed.link.messages import (
    Accept,
    Chunk,
    Error,
    Info,
    Ping,
    Probe,
    Reason,
    Result,
    State,
    Status,
    Train,
    decode,
    encode,
)
from kilofed.transports.memory import Faults

# ---- the good case -----------------------------------------------------------------------------------


def test_a_round_from_probe_to_commit():
    world = World()
    job = finished(world)
    assert world.kinds() == [
        ev.Opened, ev.HeadDelivered, ev.Training, ev.ResultReady, ev.Committed,
    ]  # fmt: skip
    assert world.heads == [HEAD] and world.trained == [1] and world.committed == [1]
    assert job.result is not None and job.result.update == UPDATE
    assert job.result.result == Result(1, blob_hash(UPDATE), len(UPDATE), 80, 20, 900, 9, 15, 3000)
    assert world.device.state is State.IDLE and not world.seen(ev.Stray)
    assert world.host.counters.retries == 0


def test_the_bytes_of_a_round_stay_within_the_budget():
    world = World(train_seconds=5.0)
    job = finished(world)
    before = dict(world.bytes)
    heads = [HEAD, random.Random(3).randbytes(len(HEAD))]
    for round in range(2, 12):
        job = Round(world, round, heads[round % 2])
        world.run(lambda: job.done)  # noqa: B023
    down = (world.bytes["down"] - before["down"]) / 10
    up = (world.bytes["up"] - before["up"]) / 10
    print(f"{down:.0f} B down, {up:.0f} B up a round")
    assert 376 < down <= 900 and 346 < up <= 800
    assert world.host.counters.bytes_down == world.bytes["down"] == world.device.counters.bytes_down
    assert world.host.counters.bytes_up == world.bytes["up"] == world.device.counters.bytes_up


# ---- sessions ----------------------------------------------------------------------------------------


def test_a_silent_device_is_lost_after_three_heartbeats_and_found_again():
    world = World()
    world.open()
    world.connected = False
    began = world.now
    world.run(lambda: bool(world.seen(ev.Lost)))
    assert 6 <= world.now - began < 9
    assert world.seen(ev.Lost) == [ev.Lost(Reason.SILENT, "the device is silent")]
    assert not world.device.in_session or world.now - began < 8
    world.connected = True
    world.host_events.clear()
    world.run(lambda: bool(world.seen(ev.Opened)), seconds=10)


@pytest.mark.parametrize(("key", "more"), [(None, 0), (KEY, 6)])  # a tag is 12 bytes longer than a check
def test_an_idle_session_lives_on_and_costs_little(key, more):
    world = World(key=key)
    world.open()
    before = dict(world.bytes)
    end = world.now + 600
    world.run(lambda: world.now >= end, seconds=700)
    assert not world.seen(ev.Lost)
    assert world.bytes["down"] - before["down"] < 600 * (11 + more)
    assert world.bytes["up"] - before["up"] < 600 * (15 + more)


def test_busy_stretches_the_patience_of_the_host():
    world = World()
    world.open()
    world.device.busy(20_000)
    world.step()
    world.step()
    world.connected = False
    end = world.now + 19
    world.run(lambda: world.now >= end, seconds=30)
    assert not world.seen(ev.Lost)
    world.run(lambda: bool(world.seen(ev.Lost)), seconds=10)


def test_a_device_that_sleeps_ten_seconds_after_each_round_keeps_its_session():
    world = World()
    world.open()
    for number in (1, 2, 3):
        job = finished(world, number)
        assert job.result is not None
        asleep = world.now
        world.device.busy(10_000)
        world.step()
        world.step()
        Round(world, number + 1)  # asked for meanwhile: it waits for the device to wake
        before = dict(world.bytes)
        world.run(lambda before=before: world.bytes != before)
        assert world.now - asleep >= 10
        assert world.bytes["up"] == before["up"]  # it was the host that spoke, and nobody had to answer
    assert not world.seen(ev.Lost)
    assert len(world.seen(ev.Opened)) == 1
    assert world.host.counters.retries == 0


def test_a_host_that_slept_does_not_blame_the_device():
    world = World()
    world.open()
    world.now += 3600
    world.host.poll(world.now)
    world.flush()
    assert not world.seen(ev.Lost)


def test_refused_devices_wait():
    world = World()
    world.new_host(admit=lambda hello: Reason.UNKNOWN_DEVICE, refuse_for=30)
    end = world.now + 60
    world.run(lambda: world.now > end)
    hellos = world.seen(ev.HelloSeen)
    assert 2 <= len(hellos) <= 6 and {e.refused for e in hellos} == {Reason.UNKNOWN_DEVICE}
    assert not world.seen(ev.Opened)
    assert any(isinstance(e, ev.Refused) and e.wait_ms == 30_000 for e in world.device_events)


def test_close_says_bye_and_ends_for_good():
    world = World()
    world.open()
    world.host.close()
    world.host.close()
    assert world.host.next_deadline() is None
    world.flush()
    world.now += 1
    for _, _, way, data in world.pipe:
        if way == "down":
            world.device.receive(data, world.now)
    assert ev.Lost(Reason.SHUTTING_DOWN, "the host said bye") in world.device.events()
    assert world.seen(ev.Lost)
    world.host.receive(b"anything\0", world.now)
    assert world.host.data_to_send() == b"" and world.host.events() == []


def test_the_bye_of_a_device_ends_the_session():
    world = World()
    world.open()
    world.device.close(Reason.SHUTTING_DOWN)
    world.run(lambda: bool(world.seen(ev.Lost)))
    assert world.seen(ev.Lost) == [ev.Lost(Reason.SHUTTING_DOWN, "the device said bye")]


def test_a_replayed_hello_or_probe_ends_nothing():
    world = World()
    hello = None
    world.open()
    hello = next(e.hello for e in world.host_events if isinstance(e, ev.Opened))
    clear = encode_frame(encode(hello), direction=Direction.FROM_DEVICE)
    probe = encode_frame(encode(Probe()), direction=Direction.FROM_HOST)
    for _ in range(3):
        world.host.receive(clear, world.now)
        world.device.receive(probe, world.now)
        end = world.now + 5
        world.run(lambda: world.now > end)  # noqa: B023
    sessions = world.host.counters.sessions
    finished(world)
    # A probe gets a hello with a fresh nonce, which the host answers with a new session: nobody waits.
    assert world.host.counters.sessions == sessions
    assert all(e.reason != Reason.SILENT for e in world.seen(ev.Lost))


def test_an_info_is_answered_when_the_owner_does_nothing():
    world = World()
    world.open()
    end = world.now + 1.5
    world.run(lambda: world.now > end)
    assert world.said(Info) == 1 and 1 <= world.said(Ping) <= 2


def test_a_nonce_opens_one_session_only():
    world = World()
    world.open()
    world.device.disconnected()
    world.device.poll(world.now)
    (again,) = [
        decode(parse_frame(piece).message) for piece in world.device.data_to_send().split(b"\0") if piece
    ]
    assert world.host.hello is not None
    assert again == replace(world.host.hello, device_nonce=again.device_nonce) != world.host.hello


def test_a_change_is_told_although_the_host_speaks_meanwhile():
    world = World(holding=replace(HOLDING, train=0, held_out=0, collecting=True))
    world.open()
    end = world.now + 1
    world.run(lambda: world.now > end)
    world.device.update(replace(HOLDING, train=1, held_out=0, collecting=True))
    world.device.poll(world.now)
    world.host._say(Ping())
    world.run(lambda: bool(world.seen(ev.InfoChanged)), seconds=1.2)
    assert world.host.info is not None and world.host.info.train == 1


def test_a_hello_that_comes_twice_gets_the_same_welcome_twice():
    world = World()
    world.host.poll(world.now)
    world.host.data_to_send()
    world.device.poll(world.now)
    hello = world.device.data_to_send()
    world.host.receive(hello + hello, world.now)
    answers = [piece for piece in world.host.data_to_send().split(b"\0") if piece]
    assert len(answers) == 2 and answers[0] == answers[1]
    # Also when the device took the first and the second comes late.
    world.device.receive(b"\0" + answers[0] + b"\0", world.now)
    info = world.device.data_to_send()
    world.device.receive(b"\0" + answers[1] + b"\0", world.now)
    world.host.receive(info, world.now)
    assert world.host.info is not None and world.device.counters.sessions == 1


def test_a_device_without_entropy_may_say_the_nonce_of_a_session_again_after_a_reset():
    world = World()
    world.open()
    hello = world.host.hello
    assert hello is not None
    for end in (world.host, world.device):  # silence the old session's ping for the time of the test
        end.events()
    world.new_device()
    world.device._hello = hello
    world.device.poll(world.now)
    world.host_events.clear()
    world.run(lambda: bool(world.seen(ev.Opened)), seconds=2)
    assert world.kinds() == [ev.Lost, ev.Opened]


def test_probes_leave_a_welcome_the_time_of_a_slow_round_trip():
    world = World(latency=0.8)
    finished(world)
    assert world.seen(ev.Opened) and world.host.counters.sessions == 1


@pytest.mark.parametrize(
    ("key", "max_frame", "window"),
    [
        *((None, *sizes) for sizes in ((64, 64), (64, 200), (128, 512), (128, 100), (1024, 4096))),
        *((KEY, *sizes) for sizes in ((72, 64), (72, 200), (128, 512), (128, 100), (1024, 4096))),
    ],
)
def test_a_good_line_never_waits_for_a_timeout(key, max_frame, window):
    world = World(key=key, max_frame=max_frame, window=window, train_seconds=1.0, latency=0.001)
    world.open()
    began = world.now
    finished(world)
    assert world.now - began < 1.4 and world.host.counters.retries == 0


def test_nothing_is_said_or_told_before_the_info():
    world = World(key=None)
    world.host.poll(world.now)
    world.host.data_to_send()
    world.device.poll(world.now)
    world.host.receive(world.device.data_to_send(), world.now)
    world.device.receive(world.host.data_to_send(), world.now)
    world.device.data_to_send()  # the info is lost
    world.host.events()
    update = Result(7, bytes(8), 346, 1, 1, 1, 1, 1, 1)
    for message in (
        Status(State.TRAINING, 7, 1, 1),
        update,
        Error(3),
        Chunk(1, 0, b"x"),
        Accept(1, 0, 0),
        Ping(),
    ):
        world.device._say(message)
    world.device._out += world.device._session.seal(b"\x81\x18\x63")
    world.host.receive(world.device.data_to_send(), world.now)
    assert world.host.data_to_send() == b"" and world.host.events() == []
    assert world.host.counters.sessions == 1
    finished(world)


def test_what_was_not_sent_before_a_disconnection_is_not_sent_after_it():
    world = World()
    world.open()
    world.host.train(order())
    world.host.poll(world.now)
    world.host.disconnected("unplugged")
    assert world.host.data_to_send() == b"" and world.host.info is None


def test_commands_need_a_session():
    world = World()
    for command in (
        lambda: world.host.send_head(HEAD),
        lambda: world.host.train(order()),
        lambda: world.host.commit(1),
        lambda: world.host.cancel(1),
    ):
        with pytest.raises(SessionError, match="wait for Opened"):
            command()


def test_a_lost_info_is_repeated_before_anything_is_said():
    world = World(key=None)
    lost = []

    def drop_info(data: bytes) -> bytes:
        out = b""
        for piece in data.split(b"\0")[:-1]:
            message = decode(parse_frame(piece).message) if piece else None
            if isinstance(message, Info) and len(lost) < 3:
                lost.append(world.now)
            else:
                out += piece + b"\0"
        return out

    world.up = Faults()
    world.up.feed = drop_info  # type: ignore[method-assign]
    finished(world)
    assert len(lost) == 3 and lost[2] - lost[0] == pytest.approx(2.0, abs=0.1)


# ---- orders ------------------------------------------------------------------------------------------


def test_a_head_that_is_held_is_not_sent_again():
    world = World()
    finished(world)
    chunks = len(world.chunks)
    world.host_events.clear()
    world.host.send_head(HEAD)
    world.run(lambda: bool(world.seen(ev.HeadDelivered)))
    assert len(world.chunks) == chunks


def test_a_device_that_forgot_its_head_is_given_it_again():
    world = World()
    job = Round(world)
    world.run(lambda: world.device.head is not None)
    world.device._heads.clear()  # as a device does whose storage was wiped
    world.run(lambda: job.done)
    assert world.heads == [HEAD, HEAD]


def test_heads_that_take_turns_are_all_delivered():
    world = World()
    other = random.Random(3).randbytes(len(HEAD))
    for round, head in enumerate([HEAD, other, HEAD, HEAD, other], 1):
        job = Round(world, round, head)
        world.run(lambda: job.done)  # noqa: B023
    assert world.trained == [1, 2, 3, 4, 5] and not world.seen(ev.DeviceError)


def test_going_back_to_the_head_in_use_and_forward_again():
    world = World(train_seconds=20)
    other = random.Random(3).randbytes(len(HEAD))
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(until(world, "training"))
    for head in (other, HEAD, other):
        world.host.send_head(head)
        world.run(lambda: world.device.head == blob_hash(head))  # noqa: B023
    world.run(lambda: bool(world.seen(ev.ResultReady)))
    world.host.commit(1)
    world.run(lambda: bool(world.seen(ev.Committed)))
    finished_round = Round(world, 2, other)
    world.run(lambda: finished_round.done)
    assert not world.seen(ev.DeviceError)


def test_an_order_for_a_head_nobody_has_is_an_error():
    world = World()
    world.open()
    world.host.train(order(1, b"another head"))
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.HEAD, 0, "")]


def test_a_head_of_a_wrong_size_is_refused_before_the_first_chunk():
    world = World()
    world.open()
    world.host.send_head(HEAD + b"x")
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    refused = ev.DeviceError(StatusCode.BLOB, len(HEAD), "the head was refused 3 times")
    assert world.seen(ev.DeviceError) == [refused]
    assert not world.chunks and not world.seen(ev.Lost)


def test_a_head_that_does_not_parse_is_offered_three_times():
    world = World(head_verdict=StatusCode.BLOB)
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    (error,) = world.seen(ev.DeviceError)
    assert error.code == StatusCode.BLOB and sum(chunk.offset == 0 for _, chunk in world.chunks) == 3
    assert not world.trained


def test_progress_comes_every_two_seconds_at_most():
    world = World(train_seconds=20.0)
    finished(world)
    statuses = world.seen(ev.Progress)
    assert 5 <= len(statuses) <= 12
    permille = [e.status.progress for e in statuses[:-1]]
    assert permille == sorted(permille)


def test_cancel_stops_a_training_and_drops_a_result():
    for state in ("training", "result there"):
        world = World(train_seconds=3.0)
        world.open()
        world.host.send_head(HEAD)
        world.host.train(order(4))
        world.run(until(world, state))
        world.host.cancel(4)
        world.run(lambda: world.device.state is State.IDLE)  # noqa: B023
        assert ev.CancelAsked(4) in world.device_events
        assert not world.committed
        finished(world, 5)


def test_a_cancel_right_after_its_order_is_not_taken_for_done_too_early():
    """A status from before the order is on its way; the cancel itself gets lost."""
    world = World(train_seconds=30)
    world.open()
    world.host.send_head(HEAD)
    world.run(lambda: bool(world.seen(ev.HeadDelivered)))
    world.host.train(order(4))
    world.host.poll(world.now)
    world.flush()  # the order is under way
    world.device._say_status()
    world.flush()  # and so is an idle status, the other way
    world.host.cancel(4)
    world.connected = False
    world.step()
    world.connected = True
    end = world.now + 3
    world.run(lambda: world.now > end)
    assert ev.CancelAsked(4) in world.device_events and world.device.state is State.IDLE


def test_cancel_of_another_round_changes_nothing():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(4))
    world.run(until(world, "training"))
    world.host.cancel(3)
    world.run(lambda: bool(world.seen(ev.ResultReady)))


def test_a_newer_order_replaces_a_running_round_and_a_waiting_result():
    for state in ("training", "result there"):
        world = World()
        world.open()
        world.host.send_head(HEAD)
        world.host.train(order(1))
        world.run(until(world, state))
        world.host_events.clear()
        finished(world, 2)
        assert ev.CancelAsked(1) in world.device_events and world.committed == [2]


def test_an_order_that_is_repeated_does_not_train_twice():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(until(world, "training"))
    world.new_host()
    world.host_events.clear()
    finished(world, 1)
    assert world.trained == [1]


def test_the_same_number_with_another_seed_is_another_round():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(until(world, "training"))
    world.new_host()
    world.host_events.clear()
    job = Round(world, 1, seed=8)
    world.run(lambda: job.done)
    assert world.trained == [1, 1]


def test_a_result_of_a_round_that_was_not_ordered_is_left_alone():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(_result_waits(world))
    world.new_host()
    world.host_events.clear()
    world.open()
    end = world.now + 5
    world.run(lambda: world.now > end)
    assert not world.seen(ev.ResultReady) and not [c for way, c in world.chunks if way == "up"]
    world.host.train(order(2))
    world.run(lambda: bool(world.seen(ev.ResultReady)))
    (ready,) = world.seen(ev.ResultReady)
    assert ready.result.round == 2
    stale = replace(ready.result, round=1)
    world.device._say(stale)
    before = len(world.messages)
    world.flush()
    world.run(lambda: not world.pipe)
    assert not any(isinstance(message, Accept) for _, message in world.messages[before + 1 :])


def _result_waits(world: World):
    """Until the result is there and the host has not heard of it."""

    def waits() -> bool:
        return world.device.state is State.UPLOADING

    return waits


def test_a_busy_device_is_asked_again_without_end():
    world = World(train_seconds=0.5)
    world.open()
    busy_until = world.now + 30
    take = world.device._take_train

    def busy(asked: Train) -> None:
        if world.now < busy_until:
            world.device._say(Error(StatusCode.BUSY))
        else:
            take(asked)

    world.device._take_train = busy
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(lambda: bool(world.seen(ev.ResultReady)), seconds=60)
    assert world.now > busy_until and not world.seen(ev.Lost) and not world.seen(ev.DeviceError)


def test_a_result_is_fetched_again_by_ordering_it_again():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(lambda: bool(world.seen(ev.ResultReady)))
    chunks = len(world.chunks)
    world.host.train(order(1))
    world.run(lambda: len(world.seen(ev.ResultReady)) == 2)
    first, second = world.seen(ev.ResultReady)
    assert first == second and world.trained == [1] and len(world.chunks) == chunks


def test_a_host_that_was_killed_before_it_kept_the_result_gets_it_again():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(lambda: bool(world.seen(ev.ResultReady)))
    world.new_host()
    world.host_events.clear()
    job = finished(world, 1)
    assert job.result is not None and job.result.update == UPDATE and world.trained == [1]


def test_a_later_host_that_takes_shorter_frames_gets_them():
    world = World(max_frame=1024, window=300)
    Round(world)
    world.run(until(world, "update on its way"))
    world.new_host(max_frame=72)
    world.host_events.clear()
    job = Round(world)
    mark = len(world.captured)
    world.run(lambda: job.done)
    frames = bytes(world.captured[mark:]).split(b"\0")
    assert any(frames) and max(map(len, frames)) < 72
    assert world.said(Chunk) > 4


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"flags": 1}])
def test_a_result_without_an_update_is_complete_as_it_is(fields):
    world = World()
    job = Round(world, 1, **fields)
    world.run(lambda: job.done)
    assert job.result is not None and job.result.update is None and job.result.result.size == 0
    assert not [chunk for way, chunk in world.chunks if way == "up"]


def test_collecting_devices_are_not_ordered_before_they_are_ready():
    world = World(holding=replace(HOLDING, train=0, held_out=0, collecting=True))
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    end = world.now + 10
    world.run(lambda: world.now > end)
    assert not world.trained and not world.seen(ev.Lost) and world.said(Train) == 0
    world.device.update(replace(HOLDING, train=10))
    world.run(lambda: bool(world.seen(ev.ResultReady)), seconds=10)
    assert world.seen(ev.InfoChanged)


def test_a_training_that_fails_is_an_error():
    world = World(train_seconds=50)
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(until(world, "training"))
    assert world.training is not None
    asked, world.training = world.training[0], None
    world.device.fail(asked, StatusCode.STATE, 3)
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.STATE, 3, "")]
    finished(world, 2)


def test_an_update_of_a_wrong_size_is_not_taken():
    world = World(update=lambda order: UPDATE + b"x")
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    end = world.now + 20
    world.run(lambda: world.now > end)
    assert len(world.seen(ev.DeviceError)) == 1 and not [c for way, c in world.chunks if way == "up"]
    world.host.commit(1, StatusCode.BLOB)
    world.run(lambda: bool(world.seen(ev.Committed)))
    assert ev.CommitAsked(1, StatusCode.BLOB) in world.device_events and not world.committed


def test_an_update_whose_hash_is_wrong_is_asked_for_three_times():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(until(world, "uploading"))
    assert world.device._update is not None
    world.device._update.data = bytes(len(UPDATE))
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.BLOB, 0, "an update damaged 3 times")]
    assert sum(way == "up" and chunk.offset == 0 for way, chunk in world.chunks) == 3
    world.host.commit(1, StatusCode.BLOB)
    world.run(lambda: bool(world.seen(ev.Committed)))
