"""What a worker answers: who is let in, what it tells of its progress, which version it sends."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core import protocol
from mpls.core.plan import Layer
from mpls.core.protocol import Vector
from mpls.core.serving import (
    REFERENCES_LIMIT_BYTES,
    RESUME_S,
    Condition,
    Reply,
    Serving,
    Transfer,
    choose_progress_mode,
)
from mpls.core.settings import PlanSettings
from mpls.core.spec import WorkerSpec

CONDITION = Condition("running", 4, 0.25)


@dataclass
class Weights:
    """A snapshot of a model with one weight in each layer."""

    version: int
    values: Vector
    path: Vector
    round: int = 1

    def squared_distance(self, older: Weights) -> Vector:
        changes = [now - before for now, before in zip(self.values, older.values)]
        return tuple(change * change for change in changes)


def walk(*values: Vector) -> list[Weights]:
    """Successive snapshots with these weights, versions 1, 2, ..."""
    snapshots = [Weights(1, values[0], (0.0,) * len(values[0]))]
    for version, now in enumerate(values[1:], 2):
        before = snapshots[-1]
        steps = Weights(version, now, ()).squared_distance(before)
        path = tuple(sum(pair) for pair in zip(before.path, steps))
        snapshots.append(Weights(version, now, path))
    return snapshots


V1, V2, V3 = walk((0.0, 0.0), (3.0, 1.0), (0.0, 0.0))


class Server:
    """A serving worker whose latest snapshot can be set."""

    def __init__(self, progress: str = "auto", greet: tuple[str, ...] = ("w1", "w2")) -> None:
        spec = WorkerSpec(
            name="w0",
            seed=1,
            peers=("w1", "w2"),
            layers=(Layer("conv", 1000), Layer("fc", 10)),
            model="abc",
            histogram=(0.25, 0.75),
            samples=40,
            plan=PlanSettings(progress=progress),
        )
        self.serving = Serving(spec)
        self.latest = V1
        for name in greet:
            self.ask(name, hello(name))

    def ask(self, asker: str, request: protocol.Message, now: float = 0.0) -> Reply | Transfer:
        return self.serving.answer(asker, request, self.latest, CONDITION, now)

    def pull(self, version: int = 0, asker: str = "w1", now: float = 0.0) -> Weights | str:
        """The snapshot that a pull of this version is served from, or the code of its refusal."""
        reply = self.ask(asker, protocol.Pull(5, ("conv",), version, 0, 1000), now)
        if isinstance(reply, protocol.Error):
            return reply.code
        assert isinstance(reply, Transfer)
        assert isinstance(reply.snapshot, Weights)
        return reply.snapshot

    def progress(self, asker: str = "w1") -> Vector | None:
        """g as this asker hears it."""
        reply = self.ask(asker, protocol.Status(6))
        assert isinstance(reply, protocol.StatusOk)
        return reply.progress


def hello(
    name: str = "w1", model: str = "abc", v: int = protocol.PROTOCOL_VERSION
) -> protocol.Hello:
    return protocol.Hello(3, name, model, (0.5, 0.5), 10, v)


# --- who is let in ----------------------------------------------------------------------------


def test_a_peer_that_says_hello_is_welcomed_with_who_we_are() -> None:
    welcome = Server(greet=()).ask("w1", hello())
    assert welcome == protocol.Welcome(3, "w0", "abc", (0.25, 0.75), 40)


@pytest.mark.parametrize(
    ("asker", "greeting", "code", "names"),
    [
        ("w1", hello(v=2), "unsupported", ["2", "1"]),
        ("w1", hello(model="xyz"), "refused", ["xyz", "abc"]),
        ("w7", hello("w7"), "refused", ["w7", "w0"]),
    ],
    ids=["another version", "another model", "no peer of ours"],
)
def test_a_hello_that_does_not_fit_is_refused_and_names_both_sides(
    asker: str, greeting: protocol.Hello, code: str, names: list[str]
) -> None:
    server = Server(greet=())
    refusal = server.ask(asker, greeting)
    assert isinstance(refusal, protocol.Error)
    assert (refusal.id, refusal.code) == (3, code)
    assert all(name in refusal.message.replace(",", "").split() for name in names)
    assert server.pull(asker=asker) == "refused"


@pytest.mark.parametrize(
    "request_", [protocol.Status(6), protocol.Pull(6, ("fc",), 0, 0, 9), protocol.Probe(6, 9)]
)
def test_whoever_has_not_said_hello_is_refused(request_: protocol.Message) -> None:
    refusal = Server(greet=("w2",)).ask("w1", request_)
    assert refusal == protocol.Error(6, "refused", "say hello first")


def test_a_peer_that_comes_back_with_another_model_is_let_in_no_more() -> None:
    server = Server()
    assert server.pull() is V1
    server.ask("w1", hello(model="xyz"))
    assert server.pull() == "refused"
    server.ask("w1", hello())
    assert server.pull() is V1


def test_a_peer_whose_connection_is_gone_has_to_say_hello_again() -> None:
    server = Server()
    server.serving.part("w1")
    server.serving.part("w1")
    assert (server.pull(asker="w1"), server.pull(asker="w2")) == ("refused", V1)


def test_a_ping_needs_no_hello() -> None:
    assert Server(greet=()).ask("w7", protocol.Ping(6, 1.5)) == protocol.Pong(6, 1.5)


def test_a_probe_is_answered_with_as_many_bytes() -> None:
    reply = Server().ask("w1", protocol.Probe(6, 12_345))
    assert isinstance(reply, protocol.ProbeData)
    assert (reply.id, len(reply.data)) == (6, 12_345)


@pytest.mark.parametrize(
    "message", [protocol.Pong(6, 0.0), protocol.StatusOk(6, "", 0, 1, None, 0)]
)
def test_what_is_no_request_is_unsupported(message: protocol.Message) -> None:
    refusal = Server().ask("w1", message)
    assert isinstance(refusal, protocol.Error)
    assert (refusal.id, refusal.code) == (6, "unsupported")
    assert type(message).__name__ in refusal.message


# --- progress ---------------------------------------------------------------------------------


def test_a_status_tells_how_the_worker_is() -> None:
    server = Server()
    server.latest = V3
    status = server.ask("w1", protocol.Status(6))
    assert status == protocol.StatusOk(6, "running", 4, version=3, progress=None, step_s=0.25)


def test_progress_is_unknown_before_the_first_confirmed_pull() -> None:
    server = Server()
    assert server.progress() is None
    server.pull()
    assert server.progress() is None


def test_progress_is_counted_since_the_last_confirmed_pull_of_each_asker() -> None:
    server = Server()
    server.serving.confirm("w1", V1)
    server.latest = V2
    assert server.progress("w1") == (9.0, 1.0)
    assert server.progress("w2") is None
    server.serving.confirm("w2", V2)
    assert (server.progress("w1"), server.progress("w2")) == ((9.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize("mode", ["displacement", "path"])
def test_a_pull_that_is_not_confirmed_does_not_move_the_point_it_is_counted_from(mode: str) -> None:
    server = Server(mode)
    server.serving.confirm("w1", V1)
    server.latest = V2
    assert server.pull() is V2
    assert server.progress() == (9.0, 1.0)


def test_displacement_forgets_a_detour_that_the_path_counts() -> None:
    heard = {}
    for mode in ("displacement", "path"):
        server = Server(mode)
        server.serving.confirm("w1", V1)
        server.latest = V3
        heard[mode] = server.progress()
    assert heard == {"displacement": (0.0, 0.0), "path": (18.0, 2.0)}


@pytest.mark.parametrize("mode", ["displacement", "path"])
def test_progress_too_large_for_a_float_is_unknown(mode: str) -> None:
    before, grown, latest = walk((0.0, 0.0), (1e200, 0.0), (-1e200, 0.0))
    server = Server(mode)
    server.serving.confirm("w1", before)
    server.serving.confirm("w2", grown)
    server.latest = latest
    assert (server.progress("w1"), server.progress("w2")) == (None, None)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=6))
def test_both_modes_agree_on_a_single_step_and_know_of_standing_still(steps: list[Vector]) -> None:
    *_, before, latest = walk(*steps)
    for mode in ("displacement", "path"):
        server = Server(mode)
        server.latest = latest
        server.serving.confirm("w1", before)
        assert server.progress() == latest.squared_distance(before)
        server.serving.confirm("w1", latest)
        assert server.progress() == (0, 0)


@pytest.mark.parametrize(
    ("model_bytes", "peers", "mode"),
    [
        (REFERENCES_LIMIT_BYTES, 1, "displacement"),
        (REFERENCES_LIMIT_BYTES + 1, 1, "path"),
        (64_000_000, 4, "displacement"),
        (64_000_000, 5, "path"),
    ],
)
def test_auto_keeps_references_while_all_of_them_fit_in_256_megabytes(
    model_bytes: int, peers: int, mode: str
) -> None:
    assert choose_progress_mode("auto", model_bytes, peers) == mode


@pytest.mark.parametrize("mode", ["displacement", "path"])
def test_a_mode_that_was_asked_for_is_taken_whatever_the_size(mode: str) -> None:
    assert choose_progress_mode(mode, 10**12, 1000) == mode


def test_the_worker_says_which_mode_auto_means() -> None:
    assert Server().serving.progress_mode == "displacement"


# --- pulls ------------------------------------------------------------------------------------


def test_a_pull_is_served_in_the_order_asked_for() -> None:
    pull = protocol.Pull(5, ("fc", "conv"), 0, 3, 1000)
    assert Server().ask("w1", pull) == Transfer(pull, V1, (("fc", 10), ("conv", 1000)))


def test_an_unknown_layer_is_refused_by_name() -> None:
    refusal = Server().ask("w1", protocol.Pull(5, ("fc", "conv9"), 0, 0, 1000))
    assert refusal == protocol.Error(5, "unknown-layer", "no layer conv9")


@pytest.mark.parametrize(("offset", "fits"), [(0, True), (9, True), (10, False), (11, False)])
def test_an_offset_must_lie_within_the_first_layer(offset: int, fits: bool) -> None:
    reply = Server().ask("w1", protocol.Pull(5, ("fc", "conv"), 1, offset, 1000))
    if fits:
        assert isinstance(reply, Transfer)
    else:
        why = f"offset {offset} is not within the 10 bytes of fc"
        assert reply == protocol.Error(5, "bad-request", why)


def test_a_pull_that_broke_off_is_resumed_from_the_version_it_began_with() -> None:
    server = Server()
    server.pull()
    server.latest = V2
    assert server.pull(version=1) is V1
    assert server.pull() is V2
    assert server.pull(version=1) == "gone"


def test_only_the_peer_that_began_a_pull_can_resume_it() -> None:
    server = Server()
    server.pull(asker="w1")
    server.latest = V2
    assert server.pull(version=1, asker="w2") == "gone"


def test_the_latest_version_can_be_asked_for_by_its_number() -> None:
    assert Server().pull(version=1) is V1


@pytest.mark.parametrize("version", [2, 99])
def test_a_version_that_never_was_is_gone(version: int) -> None:
    assert Server().pull(version) == "gone"


def test_a_confirmed_pull_needs_no_resuming() -> None:
    server = Server()
    server.pull()
    server.serving.confirm("w1", V1)
    server.latest = V2
    assert server.pull(version=1) == "gone"


def test_a_version_is_held_for_a_minute_after_it_was_last_asked_for() -> None:
    server = Server()
    server.pull(now=10.0)
    server.latest = V2
    server.serving.expire(10.0 + RESUME_S)
    assert server.pull(version=1, now=10.0 + RESUME_S) is V1
    server.serving.expire(10.0 + 2 * RESUME_S)
    assert server.pull(version=1, now=10.0 + 2 * RESUME_S) is V1
    server.serving.expire(10.1 + 3 * RESUME_S)
    assert server.pull(version=1) == "gone"


# --- before the first snapshot, and empty layers ----------------------------------------------


@pytest.mark.parametrize("request_", [protocol.Status(6), protocol.Pull(6, ("fc",), 0, 0, 9)])
def test_before_its_first_snapshot_a_worker_is_busy(request_: protocol.Message) -> None:
    reply = Server().serving.answer("w1", request_, None, CONDITION, 0.0)
    assert isinstance(reply, protocol.Error)
    assert (reply.id, reply.code) == (6, "busy")


def test_an_empty_layer_is_served_from_its_beginning() -> None:
    spec = WorkerSpec(
        name="w0",
        seed=1,
        peers=("w1",),
        layers=(Layer("empty", 0), Layer("fc", 10)),
        model="abc",
        histogram=(0.25, 0.75),
        samples=40,
    )
    serving = Serving(spec)
    serving.answer("w1", hello(), V1, CONDITION, 0.0)
    reply = serving.answer("w1", protocol.Pull(5, ("empty", "fc"), 0, 0, 9), V1, CONDITION, 0.0)
    assert isinstance(reply, Transfer)
