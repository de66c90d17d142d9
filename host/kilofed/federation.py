"""From a run folder and some lines to a finished run: what `kilofed run` and `kilofed demo` share.

    with open_run(folder, write=True) as run:
        finished = run_federation(run, ports=["/dev/ttyACM0"], expected=1, observers=[print])

The rounds are kilofed.rounds.engine's, the lines kilofed.connection's; here they are put together, and Ctrl-C
is made an orderly end.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from kilofed.connection import Connection, Lobby
from kilofed.errors import ConfigError, RunMismatchError
from kilofed.fleet import Fleet
from kilofed.rounds.config import RunConfig
from kilofed.rounds.engine import Engine
from kilofed.rounds.globalmodel import GlobalModel
from kilofed.rounds.records import Kind, Note, RunEvent
from kilofed.rounds.strategy import load_strategy
from kilofed.store import DATABASE, Run, create_run, open_run
from kilofed.transports import mdns, tcp
from kilofed.transports import mqtt as mqtt_lines
from kilofed.transports.base import Transport
from kilofed.transports.broker import Broker
from kilofed_tools import heads

#: Signals that end a run in good order: it can be resumed.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: What to listen on to be reached at 127.0.0.1, too.
_WITH_LOOPBACK = ("127.0.0.1", "0.0.0.0", *tcp.EVERYWHERE)

ListenerT = TypeVar("ListenerT", tcp.Listener, mqtt_lines.Listener)

WATCH_SECONDS = 0.5

#: Told of bytes on a line: its name, whether they came up from the device, and the bytes.
Capture: TypeAlias = Callable[[str, bool, bytes], None]


def resume_or_create(folder: Path, *, config: RunConfig, model: bytes) -> tuple[Run, bool]:
    """The run in `folder`, open for writing, and whether it was there before. The caller closes it.

    A run that is there goes on with `config`, which may change what RunConfig says may change; one that has
    no round yet, and another model or other settings, is begun anew and counts as not there before.
    RunMismatchError when a run with rounds has another model or other settings, ConfigError when the strategy
    that `config` names does not work; else as store.create_run and store.open_run.
    """
    digest = heads.file_hash(model).hex()
    spec = heads.find_head(model)
    load_strategy(config.strategy, classes=spec.classes, features=spec.features)
    if not (folder / DATABASE).is_file():
        return create_run(folder, config=config, model=model, model_hash=digest), False
    run = open_run(folder, write=True)
    try:
        if not run.last_round and (run.model_hash != digest or run.config.difference(config)):
            run.begin_anew(config=config, model=model, model_hash=digest)
            run.note("begun anew with another model or other settings: there was no round yet")
            return run, False
        if run.model_hash != digest:
            raise RunMismatchError(
                f"the run in {folder} trains another model ({run.model_hash})",
                "name that model, or start a new run in another folder",
                path=str(folder),
            )
        if config.rounds < run.last_round:
            raise RunMismatchError(
                f"the run in {folder} has {run.last_round} rounds already, and {config.rounds} are asked for",
                f"ask for {run.last_round} or more, or start a new run in another folder",
                path=str(folder),
            )
        run.set_config(config)
    except BaseException:
        run.close()
        raise
    return run, True


def run_federation(
    run: Run,
    *,
    expected: int,
    ports: Sequence[str] = (),
    listen: tuple[str, int] | None = None,
    announce: bool = False,
    mqtt: Broker | None = None,
    on_listening: Callable[[int], None] | None = None,
    fleet: Fleet | None = None,
    anybody: bool = False,
    insecure: bool = False,
    measure: Callable[[GlobalModel], float] | None = None,
    observers: Sequence[Callable[[RunEvent], None]] = (),
    watch: Callable[[], None] | None = None,
    capture: Capture | None = None,
) -> bool:
    """Runs every round that is left. True when all are done, False when a signal stopped it.

    expected: devices to wait for. ports: serial ports or URLs pyserial knows. listen: HOST and port to take
    TCP devices on (port 0: any; host "*": every address); announce: say so by mDNS; mqtt: a broker to take
    devices over; on_listening is told a port of 127.0.0.1, for devices of this machine. fleet: who is let
    in, and their keys; without one everybody is, in the clear. anybody, insecure: as Engine's. measure:
    accuracy on a test set. watch: called twice a second; what it raises ends the run. Call it from the main
    thread: it takes over SIGINT, SIGTERM and SIGHUP while it runs. Raises what Engine.run raises, and
    TransportError for a port that cannot be opened or announced.
    """
    return asyncio.run(
        _stoppable(
            federate(
                run,
                expected=expected,
                ports=ports,
                listen=listen,
                announce=announce,
                mqtt=mqtt,
                on_listening=on_listening,
                fleet=fleet,
                anybody=anybody,
                insecure=insecure,
                measure=measure,
                observers=observers,
                watch=watch,
                capture=capture,
            ),
            observers,
        )
    )


async def federate(
    run: Run,
    *,
    expected: int,
    ports: Sequence[str] = (),
    listen: tuple[str, int] | None = None,
    announce: bool = False,
    mqtt: Broker | None = None,
    on_listening: Callable[[int], None] | None = None,
    fleet: Fleet | None = None,
    anybody: bool = False,
    insecure: bool = False,
    measure: Callable[[GlobalModel], float] | None = None,
    observers: Sequence[Callable[[RunEvent], None]] = (),
    watch: Callable[[], None] | None = None,
    capture: Capture | None = None,
) -> None:
    """Runs every round of an open run that is left, in the event loop that is running; cancel it to stop.

    Arguments and errors are those of `run_federation`, which is this with a loop of its own and an orderly
    end by signals. expected: devices to wait for. ports: serial ports or URLs pyserial knows. listen: host
    and port to take TCP devices on (port 0: any; host "*": every address); announce: say so by mDNS; mqtt:
    a broker to take devices over; on_listening is told a port of 127.0.0.1, for devices of this machine.
    fleet: who is let in, and their keys; without one everybody is, in the clear. anybody, insecure: as
    Engine's. measure: accuracy of the global model on a test set. watch: called twice a second; what it
    raises ends the run. capture: told every byte on a line. Raises RoundError (ConfigError for a port named
    twice), and TransportError for a port that cannot be opened or announced.
    """
    twice = sorted({port for port in ports if list(ports).count(port) > 1})
    if twice:
        raise ConfigError(f"the port {twice[0]} is named twice", "name each port once", setting="ports")
    engine = engine_of(
        run, fleet=fleet, anybody=anybody, insecure=insecure, measure=measure, observers=observers
    )
    async with contextlib.AsyncExitStack() as stack:
        for port in ports:
            line = Connection.serial(port, endpoint=engine.endpoint(), capture=_tap(capture, port))
            engine.attach(await stack.enter_async_context(line))
        if listen is not None:
            bound = await stack.enter_async_context(_listening(engine, *listen, capture))
            if announce:
                await stack.enter_async_context(mdns.announce(listen[0], bound))
        if mqtt is not None:
            await stack.enter_async_context(_subscribed(engine, mqtt, capture))
        if on_listening is not None:
            if listen is None or listen[0] not in _WITH_LOOPBACK:
                bound = await stack.enter_async_context(_listening(engine, "127.0.0.1", 0, capture))
            on_listening(bound)
        stack.push_async_callback(engine.close)
        await _first_of(engine.run(expected=expected), _watching(watch))


def engine_of(
    run: Run,
    *,
    fleet: Fleet | None = None,
    anybody: bool = False,
    insecure: bool = False,
    measure: Callable[[GlobalModel], float] | None = None,
    observers: Sequence[Callable[[RunEvent], None]] = (),
) -> Engine:
    """The engine of a run, set to where the run stands.

    The strategy that the run's settings name is imported and tried: ConfigError when it does not work. So a
    run folder of somebody else's may name code to run; whoever only reads one runs none of it.
    """
    state = run.master()
    rounds = run.rounds()
    model = GlobalModel(run.model_of(0), None if state is None else state[1])
    strategy = load_strategy(run.config.strategy, classes=model.classes, features=model.features)
    if strategy is not None:
        model.use(strategy, run.config.strategy, run.strategy_state())
    return Engine(
        run.config,
        model,
        run,
        done=run.last_round,
        tag=run.tag,
        settled=[part.device for part in rounds[-1].taken] if rounds else [],
        fleet=fleet,
        anybody=anybody,
        insecure=insecure,
        measure=measure,
        observers=observers,
    )


def is_finished(run: Run) -> bool:
    """Whether nothing is left to do: all rounds, and the personal one if there is to be one."""
    config = run.config
    if run.last_round < config.rounds:
        return False
    return not config.personal_epochs or any(r.number == run.last_round for r in run.rounds(Kind.PERSONAL))


@contextlib.asynccontextmanager
async def _listening(engine: Engine, host: str, port: int, capture: Capture | None) -> AsyncIterator[int]:
    """Takes TCP devices while the context is open; gives the port."""

    def shed(most: int) -> None:
        engine.remark(
            f"{most} devices are connected, as many as this system lets one process: more are turned away"
            " (raise the limit of open files, ulimit -n)"
        )

    start = lambda serve: tcp.listen(host, port, serve, on_full=shed)  # noqa: E731
    async with _serving(engine, capture, start) as listener:
        yield listener.port


def _subscribed(
    engine: Engine, broker: Broker, capture: Capture | None
) -> AbstractAsyncContextManager[mqtt_lines.Listener]:
    """Takes the devices of a broker's topics while the context is open."""
    start = lambda serve: mqtt_lines.listen(  # noqa: E731
        broker, serve, on_remark=engine.remark, on_fail=engine.fail
    )
    return _serving(engine, capture, start)


@contextlib.asynccontextmanager
async def _serving(
    engine: Engine,
    capture: Capture | None,
    start: Callable[[Callable[[Transport], Coroutine[Any, Any, None]]], Awaitable[ListenerT]],
) -> AsyncIterator[ListenerT]:
    """Serves the connections that what `start` gives takes, while the context is open."""
    tasks: set[asyncio.Task[None]] = set()
    full = "so many connections wait without a session that the oldest are closed: a flood, or wrong keys"
    lobby = Lobby(on_full=lambda: engine.remark(full))

    async def connected(transport: Transport) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            tap = _tap(capture, transport.name)
            async with Connection(engine.endpoint(), transport, capture=tap) as line:
                lobby.enter(line)
                await engine.serve(line)
        except asyncio.CancelledError:
            pass  # the run has ended: leaving the connection has said goodbye
        except Exception as error:
            engine.fail(error)
        finally:
            tasks.discard(task)

    async with await start(connected) as listener:
        try:
            yield listener
        finally:
            waiting = list(tasks)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def _tap(capture: Capture | None, name: str) -> Callable[[bool, bytes], None] | None:
    return None if capture is None else lambda up, data: capture(name, up, data)


async def _watching(watch: Callable[[], None] | None) -> None:
    """Calls `watch` for ever; ends with what it raises."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if watch is not None:
            watch()


async def _first_of(work: Coroutine[Any, Any, None], guard: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`; what `guard` raises meanwhile ends it."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(guard)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = tasks[0] if tasks[0].done() else tasks[1]
        ended.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _stoppable(
    work: Coroutine[Any, Any, None], observers: Sequence[Callable[[RunEvent], None]]
) -> bool:
    """Runs `work` until it is done (True) or a signal of STOPPING has cancelled it (False).

    Saying goodbye to the devices may take a second or two, so `observers` are told at once.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            for observer in observers:
                observer(Note("stopping: saying goodbye to the devices"))
        stopped = True
        task.cancel()

    for number in STOPPING:
        loop.add_signal_handler(number, stop)
    try:
        await task
        return True
    except asyncio.CancelledError:
        if not stopped:
            raise
        return False
    finally:
        for number in STOPPING:
            loop.remove_signal_handler(number)
