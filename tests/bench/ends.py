"""Both ends of a pull in processes of their own, and what each of them costs.

A rival is named in RIVALS: `serve`, which answers in threads of its own, and a puller that asks.
The processes are forked from a server that has imported everything, so that sixty-four of them
start in a second, and each has memory of its own to be measured.
"""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

STARTED_S = 60.0
RIVALS = {
    "mpls": "tests.bench.rivals_mpls:plain",
    "mpls CURVE": "tests.bench.rivals_mpls:curve",
    "raw TCP": "tests.bench.rivals:raw",
    "bare ZeroMQ": "tests.bench.rivals:bare",
    "gRPC adapter": "tests.bench.rivals_adapter:adapter",
    "gRPC unary": "tests.bench.rivals_grpc:unary",
    "gRPC stream": "tests.bench.rivals_grpc:stream",
    "pickle ZeroMQ": "tests.bench.rivals:pickled",
}
PRELOAD = ["numpy", "zmq", "tests.bench.ends", "tests.bench.rivals", "tests.bench.rivals_mpls"]


class Puller(Protocol):
    """One asker with one connection."""

    def pull(self) -> None:
        """Ask for all layers; returns when the last byte is in this end's own memory."""

    def ping(self) -> None:
        """The smallest exchange that tells that the other end lives."""


@dataclass(frozen=True)
class Offer:
    """Layers of these sizes in bytes, for so many pullers; both ends may use the folder."""

    sizes: Sequence[int]
    pullers: int
    folder: Path


class Rival(NamedTuple):
    """A way to move layers. `serve` returns its port; `puller` takes that, and which one it is."""

    serve: Callable[[Offer], int]
    puller: Callable[[Offer, int, int], Puller]


@dataclass(frozen=True)
class Usage:
    """Of one process so far: processor seconds, resident bytes now and at their peak."""

    cpu_s: float
    rss_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Span:
    """When a job began and ended, on the clock that all processes share, and what it returned."""

    start_s: float
    end_s: float
    result: Any


@dataclass(frozen=True)
class Sample:
    """Some pulls by all pullers at once. `peaks` are beyond what was resident before the first."""

    seconds: float
    cpu_s: float
    bytes: int
    puller_peak_bytes: int
    server_peak_bytes: int

    @property
    def MBps(self) -> float:
        """Of all pullers together."""
        return self.bytes / self.seconds / 1e6

    @property
    def cpu_s_per_GB(self) -> float:
        """Both ends."""
        return self.cpu_s / self.bytes * 1e9


def rival(name: str) -> Rival:
    """Imported only in the process that needs it."""
    module, _, attribute = RIVALS[name].partition(":")
    found: Rival = getattr(importlib.import_module(module), attribute)
    return found


class End:
    """A process that does what it is told through a pipe."""

    def __init__(self, main: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=main, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, *order: Any) -> None:
        """Give an order; its answer is heard later."""
        self._pipe.send(order)

    def hear(self, timeout_s: float = 600.0) -> Any:
        """The answer to the oldest order that has none yet."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"process {self._process.pid} gave no answer in {timeout_s:g} s")
        return self._pipe.recv()

    def ask(self, *order: Any) -> Any:
        """An order and its answer."""
        self.tell(*order)
        return self.hear()

    def __enter__(self) -> End:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing that it has is worth saving."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def serve(pipe: Connection, name: str, offer: Offer) -> None:
    """The server's process: its port, and then whatever it is asked."""
    pipe.send(rival(name).serve(offer))
    obey(pipe, {})


def pull(pipe: Connection, name: str, offer: Offer, port: int, index: int) -> None:
    """A puller's process."""
    puller = rival(name).puller(offer, port, index)
    pipe.send("connected")

    def times(count: int) -> None:
        for _ in range(count):
            puller.pull()

    def pings(count: int) -> list[float]:
        return [_seconds(puller.ping) for _ in range(count)]

    obey(pipe, {"pull": times, "ping": pings, "window": lambda s: puller.bytes_within(s)})  # type: ignore[attr-defined]


def obey(pipe: Connection, jobs: dict[str, Callable[..., Any]]) -> None:
    """Do the jobs that are ordered, and say what this process costs when asked for `usage`."""
    jobs = {"usage": usage, "mark": forget_peak, **jobs}
    while True:
        job, *args = pipe.recv()
        start_s = time.monotonic()
        result = jobs[job](*args)
        pipe.send(Span(start_s, time.monotonic(), result))


def usage() -> Usage:
    """Of this process."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kib = {key: int(status[key].split()[0]) for key in ("VmRSS", "VmHWM")}
    return Usage(times.ru_utime + times.ru_stime, kib["VmRSS"] * 1024, kib["VmHWM"] * 1024)


def forget_peak() -> Usage:
    """From now on the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return usage()


@contextmanager
def ends(name: str, sizes: Sequence[int], pullers: int) -> Iterator[tuple[End, list[End]]]:
    """A server and those who pull from it, connected."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        offer = Offer(sizes, pullers, Path(folder))
        server = stack.enter_context(End(serve, name, offer))
        port = server.hear(STARTED_S)
        takers = [End(pull, name, offer, port, index) for index in range(pullers)]
        for taker in takers:
            stack.enter_context(taker)
        for taker in takers:
            taker.hear(STARTED_S)
        yield server, takers


def measure(name: str, sizes: Sequence[int], pullers: int, pulls: int, warm_up: int) -> Sample:
    """`pulls` by each puller, all at once, after `warm_up` that only the memory is measured of."""
    with ends(name, sizes, pullers) as (server, takers):
        everyone = [server, *takers]
        resting = together(everyone, "mark")
        together(takers, "pull", warm_up)
        before = together(everyone, "usage")
        spans = together(takers, "pull", pulls)
        after = together(everyone, "usage")
    peaks = [now.result.peak_bytes - then.result.rss_bytes for now, then in zip(after, resting)]
    return Sample(
        max(span.end_s for span in spans) - min(span.start_s for span in spans),
        sum(now.result.cpu_s - then.result.cpu_s for now, then in zip(after, before)),
        sum(sizes) * pulls * pullers,
        max(peaks[1:]),
        peaks[0],
    )


def together(ends: Sequence[End], *order: Any) -> list[Span]:
    """All do the same at once."""
    for end in ends:
        end.tell(*order)
    return [end.hear() for end in ends]


def _seconds(call: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s
