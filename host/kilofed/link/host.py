"""The host's side of one line: a sans-IO state machine. Bytes and time go in, bytes, events and a deadline come out.

    endpoint = HostEndpoint(rng=os.urandom)
    loop:   endpoint.receive(bytes_from_the_line, now)     or  endpoint.poll(now) when next_deadline() has come
            line.write(endpoint.data_to_send())
            for event in endpoint.events(): ...

`now` is in seconds of any monotonic clock. After every call (commands too) take data_to_send() and events().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kilofed.link.events import Event
from kilofed.link.messages import Hello, Info, Reason, Status, TrainOrder


@dataclass(slots=True)
class Counters:
    """Since the endpoint was made. Bytes are bytes on the wire: headers, checks, COBS and delimiters included."""

    bytes_up: int = 0  # received, noise included
    bytes_down: int = 0  # given to the transport
    bytes_stray: int = 0  # the part of bytes_up that was no frame
    frames_up: int = 0
    frames_down: int = 0
    damaged: int = 0  # pieces between delimiters that were no frame
    retries: int = 0  # frames sent again, and chunks sent again
    sessions: int = 0


class HostEndpoint:
    """One device's protocol on the host.

    rng: gives n random bytes (os.urandom; a seeded source in tests). admit: called with every hello; 0 welcomes, another
    number is the `Reason` to refuse with. max_frame: longest frame this side takes, 64..1024. window: most bytes on the
    wire sent beyond the last accept, whatever the device offers. heartbeat: seconds, 0.1..65.

    Life: it probes, a device says hello, `Opened` comes with what the device holds. Then, a round:

        send_head(blob)  -> HeadDelivered       at once when the device has it already
        train(order)     -> Training, Progress..., ResultReady
        commit(round, 0) -> Committed

    send_head and train may be given together: the order waits until the head has arrived. Every command may be given
    again with the same content, which changes nothing but asks for its event anew. `Lost` forgets all commands; the
    line stays open, and at the next `Opened` the owner says again what it wants (`info` tells what the device holds,
    is doing, and which round): train() for the round whose result waits fetches that result, and nothing of an update
    that was received before is sent again. A result of a round that was not ordered in this session is left alone.
    """

    def __init__(
        self,
        *,
        rng: Callable[[int], bytes],
        admit: Callable[[Hello], int] = lambda hello: 0,
        max_frame: int = 1024,
        window: int = 4096,
        heartbeat: float = 2.0,
    ) -> None:
        self.counters = Counters()
        raise NotImplementedError

    # ---- in ----

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line, any number, cut anywhere."""
        raise NotImplementedError

    def poll(self, now: float) -> None:
        """Does what is due at `now`. Never raises."""
        raise NotImplementedError

    # ---- out ----

    def data_to_send(self) -> bytes:
        """What goes to the line now; each byte is given once."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When poll() wants to be called, None when nothing is due before more bytes or commands come."""
        raise NotImplementedError

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        raise NotImplementedError

    # ---- what is known ----

    @property
    def hello(self) -> Hello | None:
        """Of the open session."""
        raise NotImplementedError

    @property
    def info(self) -> Info | None:
        """The latest, of the open session; None without one."""
        raise NotImplementedError

    @property
    def status(self) -> Status | None:
        """The latest, of the open session."""
        raise NotImplementedError

    # ---- commands: LinkStateError when no session is open ----

    def send_head(self, blob: bytes) -> None:
        """Brings a head blob to the device. A head that is still under way is replaced. -> HeadDelivered"""
        raise NotImplementedError

    def train(self, order: TrainOrder) -> None:
        """Has the device train a round, or hand over that round's result when it waits. -> Training, ResultReady"""
        raise NotImplementedError

    def commit(self, round: int, verdict: int = 0) -> None:
        """Tells the device what became of its result (0: taken, else a StatusCode). -> Committed"""
        raise NotImplementedError

    def cancel(self, round: int) -> None:
        """Stops training of this round and drops its result. -> Progress with the device's state"""
        raise NotImplementedError

    def close(self, reason: Reason = Reason.SHUTTING_DOWN) -> None:
        """Says bye and ends the endpoint for good: take data_to_send() once more. Allowed at any time, twice too."""
        raise NotImplementedError

    def disconnected(self, why: str) -> None:
        """The transport is gone: ends the session (`Lost`) and starts probing when bytes or polls come again."""
        raise NotImplementedError
