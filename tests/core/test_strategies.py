"""The nine strategies of design 2, rule by rule, and what holds of all of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.plan import Layer, PeerView, Plan, View
from mpls.core.settings import STRATEGIES, PlanSettings
from mpls.core.strategies import RULES, make_strategy
from mpls.core.streams import Stream
from mpls.errors import BadInput

EVERY = pytest.mark.parametrize("strategy", STRATEGIES)
LAYERS = (Layer("conv", 2_000), Layer("fc1", 50_000), Layer("fc2", 3_000))
NAMES = [layer.name for layer in LAYERS]
THREE = View(
    layers=LAYERS,
    own_histogram=(0.5, 0.5),
    peers=(
        PeerView("w1", 10e6, (1.0, 0.0), (1.0, 4.0, 0.0)),
        PeerView("w2", 15e6, (0.5, 0.5), (2.0, 1.0, 0.0)),
        PeerView("w3", 12e6, (0.0, 1.0), (1.0, 1.0, 0.0)),
    ),
)

FINITE = st.floats(0, 1.7e308)
COMMON = st.sampled_from([0.0, 1.0, 10e6, 15e6])


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any finite input: no peers, dead links, unknown and extreme beliefs, empty layers."""
    layers = draw(st.integers(0, 5))
    shares = st.sampled_from([None, (1.0, 0.0), (0.5, 0.5), (0.1, 0.9)])
    vector = st.lists(st.one_of(COMMON, FINITE), min_size=layers, max_size=layers).map(tuple)
    peer = st.tuples(st.one_of(COMMON, FINITE), shares, st.one_of(st.none(), vector))
    sizes = draw(st.lists(st.integers(0, 10**9), min_size=layers, max_size=layers))
    return View(
        layers=tuple(Layer(f"layer{i}", size) for i, size in enumerate(sizes)),
        own_histogram=draw(shares),
        peers=tuple(
            PeerView(f"w{i}", *beliefs)
            for i, beliefs in enumerate(draw(st.lists(peer, max_size=7)))
        ),
        downlink_Bps=draw(st.one_of(st.none(), st.floats(1, 1e12))),
    )


def plan(view: View, strategy: str, seed: int = 0, **settings: str | float) -> Plan:
    how = PlanSettings(strategy=strategy, **settings)  # type: ignore[arg-type]
    return make_strategy(how).plan(view, Stream(seed, "strategy"))


def sources(made: Plan) -> dict[str, list[str]]:
    return {
        layer: [peer for peer, layers in made.assignment.items() if layer in layers]
        for layer in NAMES
    }


def with_peers(view: View, **changes: object) -> View:
    return replace(view, peers=tuple(replace(p, **changes) for p in view.peers))  # type: ignore[arg-type]


# --- what holds of all of them ----------------------------------------------------------------


def test_the_table_has_exactly_the_strategies_of_the_settings() -> None:
    assert tuple(RULES) == STRATEGIES


@given(
    views(),
    st.sampled_from(STRATEGIES),
    st.sampled_from(["list", "eft"]),
    st.sampled_from(["size", "index"]),
    st.sampled_from(["paper", "off", "downlink"]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_row_53_any_finite_view_gives_a_sound_plan(
    view: View, strategy: str, scheduler: str, tie: str, fill: str, tau1: float
) -> None:
    made = plan(view, strategy, scheduler=scheduler, tie=tie, fill=fill, tau1=tau1, tau2=1 - tau1)
    size = {layer.name: layer.bytes for layer in view.layers}
    served = {layer for layers in made.assignment.values() for layer in layers}
    assert served | set(made.unserved) == {name for name, bytes_ in size.items() if bytes_}
    assert not served & set(made.unserved)
    for peer in view.peers:
        layers = made.assignment[peer.name]
        assert len(set(layers)) == len(layers)
        if layers:
            seconds = sum(size[layer] for layer in layers) / peer.bandwidth_Bps
            assert made.load_s[peer.name] == seconds
        assert made.load_s[peer.name] <= made.makespan_s
    if view.usable_peers():
        assert sum(made.peer_score.values()) == pytest.approx(1)
        for column in zip(*made.layer_score.values()):
            assert sum(column) == pytest.approx(1)
    record = json.loads(json.dumps(made.as_record(), allow_nan=False))
    assert record == made.as_record()


@EVERY
def test_the_same_view_and_stream_give_the_same_plan(strategy: str) -> None:
    assert plan(THREE, strategy, seed=3) == plan(THREE, strategy, seed=3)


@given(views(), st.sampled_from(STRATEGIES), st.data())
def test_the_order_in_which_peers_are_listed_does_not_matter(
    view: View, strategy: str, data: st.DataObject
) -> None:
    shuffled = replace(view, peers=tuple(data.draw(st.permutations(view.peers))))
    assert plan(shuffled, strategy) == plan(view, strategy)


@EVERY
def test_a_peer_without_bandwidth_is_as_if_it_were_not_there(strategy: str) -> None:
    dead = PeerView("w0", 0.0, (1.0, 0.0), (9.0, 9.0, 9.0))
    made = plan(replace(THREE, peers=(dead, *THREE.peers)), strategy)
    assert made.assignment.pop("w0") == ()
    assert made.load_s.pop("w0") == 0.0
    assert made.peer_score.pop("w0") == 0.0
    assert made.layer_score.pop("w0") == (0.0,) * 3
    assert made.efficiency.pop("w0") == (0.0,) * 3
    assert made.copies.pop("w0") == ()
    assert made == plan(THREE, strategy)


@EVERY
def test_row_53_without_peers_every_layer_is_unserved(strategy: str) -> None:
    made = plan(replace(THREE, peers=()), strategy)
    assert made.unserved == tuple(NAMES)
    assert made.makespan_s == 0.0


@EVERY
def test_a_single_peer_brings_the_whole_model(strategy: str) -> None:
    made = plan(replace(THREE, peers=THREE.peers[:1]), strategy)
    assert set(made.assignment["w1"]) == (set() if strategy == "local" else set(NAMES))


@EVERY
def test_an_empty_layer_is_neither_pulled_nor_unserved(strategy: str) -> None:
    made = plan(replace(THREE, layers=(*LAYERS[:2], Layer("dropout", 0))), strategy)
    assert "dropout" not in {layer for layers in made.assignment.values() for layer in layers}
    assert "dropout" not in made.unserved


# --- MPLS and its ablations -------------------------------------------------------------------


@pytest.mark.parametrize("peers", [1, 2, 3, 6, 7, 10, 29])
@pytest.mark.parametrize("strategy", ["mpls", "mpls-peer", "mpls-layer"])
def test_equal_peers_are_all_used(peers: int, strategy: str) -> None:
    """Equal bandwidths, data and progress (zero or not): nobody is masked, the layers spread."""
    for progress in (None, (0.0,) * 9, (0.1,) * 9):
        view = View(
            layers=tuple(Layer(f"layer{i}", 1000) for i in range(9)),
            own_histogram=(0.3, 0.7),
            peers=tuple(PeerView(f"w{i}", 12.5e6, (0.3, 0.7), progress) for i in range(peers)),
        )
        made = plan(view, strategy, fill="off")
        assert set(made.efficiency.values()) == {(1.0,) * 9}
        counts = [len(layers) for layers in made.assignment.values()]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == 9


def test_mpls_scores_by_both_and_shows_every_number() -> None:
    made = plan(THREE, "mpls")
    bandwidth = [10 / 37, 15 / 37, 12 / 37]
    p = [(b + d) / 2 for b, d in zip(bandwidth, [0.5, 0.0, 0.5])]
    assert list(made.peer_score.values()) == pytest.approx(p)
    q = [[1 / 4, 4 / 6, 1 / 3], [2 / 4, 1 / 6, 1 / 3], [1 / 4, 1 / 6, 1 / 3]]
    assert list(made.layer_score.values()) == [pytest.approx(row) for row in q]
    floor = [sum(p[s] * q[s][i] for s in range(3)) / 3 for i in range(3)]
    assert made.floor == pytest.approx(floor)
    assert made.efficiency == {"w1": (0.0, 1.0, pytest.approx(10 / 12)), "w2": (1.0, 0.0, 0.0)} | {
        "w3": (pytest.approx(12 / 15), 0.0, 1.0)
    }
    assert made.assignment == {"w1": ("fc1",), "w2": ("conv",), "w3": ("fc2", "conv")}
    assert made.copies == {"w1": (), "w2": (), "w3": ("conv",)}
    assert made.load_s == {"w1": 50e3 / 10e6, "w2": 2e3 / 15e6, "w3": 5e3 / 12e6}
    assert made.makespan_s == 50e3 / 10e6


def test_mpls_peer_ignores_progress_and_mpls_layer_the_peers() -> None:
    frozen = with_peers(THREE, progress=(0.0, 0.0, 0.0))
    alike = with_peers(THREE, histogram=(0.5, 0.5))
    assert plan(THREE, "mpls-peer") == plan(frozen, "mpls-peer")
    assert plan(THREE, "mpls-layer") == plan(alike, "mpls-layer")
    assert plan(THREE, "mpls") != plan(frozen, "mpls")
    assert plan(THREE, "mpls") != plan(alike, "mpls")


def test_tau_one_looks_at_bandwidth_only_and_tau_two_at_divergence_only() -> None:
    by_speed = plan(THREE, "mpls", tau1=1.0, tau2=0.0).peer_score
    assert list(by_speed.values()) == pytest.approx([10 / 37, 15 / 37, 12 / 37])
    by_data = plan(THREE, "mpls", tau1=0.0, tau2=1.0).peer_score
    assert by_data == {"w1": 0.5, "w2": 0.0, "w3": 0.5}


def test_an_unknown_histogram_counts_as_uniform() -> None:
    view = replace(THREE, own_histogram=(1.0, 0.0))
    unknown = replace(view, peers=(replace(view.peers[0], histogram=None), *view.peers[1:]))
    uniform = replace(view, peers=(replace(view.peers[0], histogram=(0.5, 0.5)), *view.peers[1:]))
    assert plan(unknown, "mpls") == plan(uniform, "mpls")


def test_a_sampled_plan_draws_each_pair_about_as_often_as_p_q_says() -> None:
    """S draws with replacement: a pair of share x is allowed with probability 1 - (1 - x)^S."""
    p, q = plan(THREE, "mpls").peer_score, plan(THREE, "mpls").layer_score
    allowed: Counter[tuple[str, int]] = Counter()
    for seed in range(400):
        efficiency = plan(THREE, "mpls-sampled", seed).efficiency
        allowed.update((s, i) for s, row in efficiency.items() for i, e in enumerate(row) if e > 0)
    for i in range(3):
        total = sum(p[s] * q[s][i] for s in p)
        for s in p:
            expected = 1 - (1 - p[s] * q[s][i] / total) ** 3
            assert allowed[s, i] / 400 == pytest.approx(expected, abs=0.08)


def test_a_sampled_layer_without_any_merit_may_come_from_anybody() -> None:
    """One peer has all the p, the others all the q."""
    peers = (PeerView("w1", 1.0, (1.0, 0.0), (0.0,)), PeerView("w2", 1.0, (0.5, 0.5), (1.0,)))
    view = View((Layer("fc", 10),), (0.5, 0.5), peers)
    made = plan(view, "mpls-sampled", tau1=0.0, tau2=1.0)
    assert made.efficiency == {"w1": (1.0,), "w2": (1.0,)}


# --- the baselines ----------------------------------------------------------------------------


def test_rand_mpls_takes_each_layer_from_one_peer_and_every_peer_equally_often() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(300):
        chosen = sources(plan(THREE, "rand-mpls", seed))
        assert all(len(peers) == 1 for peers in chosen.values())
        counts.update((layer, peers[0]) for layer, peers in chosen.items())
    assert len(counts) == 9
    assert all(count == pytest.approx(100, abs=30) for count in counts.values())


def test_rand_mpls_draws_the_layers_independently() -> None:
    plans = {str(sources(plan(THREE, "rand-mpls", seed))) for seed in range(300)}
    assert len(plans) == 27


def test_appg_takes_everything_from_everybody() -> None:
    made = plan(THREE, "appg")
    assert made.assignment == dict.fromkeys(["w1", "w2", "w3"], tuple(NAMES))
    assert made.makespan_s == 55_000 / 10e6


def test_netmax_takes_the_whole_model_from_the_fastest_peer() -> None:
    assert plan(THREE, "netmax").assignment == {"w1": (), "w2": tuple(NAMES), "w3": ()}
    tied = with_peers(THREE, bandwidth_Bps=5.0)
    assert plan(tied, "netmax").assignment["w1"] == tuple(NAMES)


def test_gossip_takes_the_whole_model_from_one_peer_and_every_peer_equally_often() -> None:
    counts: Counter[str] = Counter()
    for seed in range(300):
        (peer, layers), *more = [x for x in plan(THREE, "gossip", seed).assignment.items() if x[1]]
        assert layers == tuple(NAMES)
        assert not more
        counts[peer] += 1
    assert all(counts[f"w{i}"] == pytest.approx(100, abs=30) for i in (1, 2, 3))


def test_local_pulls_nothing() -> None:
    made = plan(THREE, "local")
    assert not any(made.assignment.values())
    assert made.unserved == tuple(NAMES)


# --- a user's own -----------------------------------------------------------------------------


class Fastest:
    """The whole model from the fastest peer, in under ten lines."""

    def __init__(self, settings: PlanSettings) -> None:
        self.settings = settings

    def plan(self, view: View, stream: Stream) -> Plan:
        fastest = max(view.peers, key=lambda peer: peer.bandwidth_Bps)
        return Plan.of(view, {fastest.name: [layer.name for layer in view.layers]})


class Wrong(Fastest):
    """Plans what the test sets."""

    made: object = None

    def plan(self, view: View, stream: Stream) -> Plan:
        return self.made  # type: ignore[return-value]


class Shy:
    def __init__(self, settings: PlanSettings) -> None:
        raise RuntimeError("not\ntoday")


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_strategies")
    module.__dict__.update(Fastest=Fastest, Wrong=Wrong, Shy=Shy, number=7)
    module.__dict__["planless"] = lambda settings: object()
    monkeypatch.setitem(sys.modules, "own_strategies", module)


@pytest.mark.usefixtures("own_module")
def test_a_users_class_is_made_with_the_settings_and_asked_for_plans() -> None:
    made = plan(THREE, "own_strategies:Fastest")
    assert made.assignment == plan(THREE, "netmax").assignment
    assert made.makespan_s == plan(THREE, "netmax").makespan_s


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (None, "plan: must be a Plan (see Plan.of), not NoneType"),
        ({"w9": ("conv",)}, "peer 'w9' is not in the view, or has no bandwidth"),
        ({"w1": ("conv9",)}, "peer 'w1' has no layer 'conv9'"),
        ({"w1": ("conv", "fc1", "conv")}, "peer 'w1' is asked for a layer twice: conv, fc1, conv"),
    ],
)
def test_a_users_plan_is_checked(
    made: dict[str, tuple[str, ...]] | None, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = None if made is None else replace(Plan.of(THREE, {}), assignment=made)
    monkeypatch.setattr(Wrong, "made", theirs)
    with pytest.raises(BadInput) as caught:
        plan(THREE, "own_strategies:Wrong")
    message = str(caught.value)
    assert message.startswith("strategy = 'own_strategies:Wrong': plan: ")
    assert complaint in message


@pytest.mark.usefixtures("own_module")
def test_the_loads_of_a_users_plan_are_worked_out_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Plan.of(THREE, {"w1": ["fc1"]})
    boast = replace(honest, load_s={}, makespan_s=0.0, unserved=())
    monkeypatch.setattr(Wrong, "made", boast)
    assert plan(THREE, "own_strategies:Wrong") == honest


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("mpsl", "neither one of mpls, mpls-peer,"),
        ("", "neither one of"),
        ("own_strategies:", "package.module:Class"),
        ("no_such_module:Class", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("own_strategies:Missing", "AttributeError"),
        ("own_strategies:number", "TypeError"),
        ("own_strategies:Shy", "RuntimeError: not today"),
        ("own_strategies:planless", "has no method plan(view, stream)"),
    ],
)
def test_a_strategy_that_does_not_exist_is_bad_input_of_one_line(name: str, complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_strategy(PlanSettings(strategy=name))
    message = str(caught.value)
    assert message.startswith(f"strategy = {name!r}: ")
    assert complaint in message
    assert "\n" not in message


def test_a_file_with_a_syntax_error_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_strategy.py").write_text("class (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match=r"SyntaxError: .*broken_strategy\.py"):
        make_strategy(PlanSettings(strategy="broken_strategy:Mine"))
