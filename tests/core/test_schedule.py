"""Algorithm 1 and its rival against the paper's own lines, a brute-force optimum, and the rules of
design 2 for what the paper leaves open."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import fsum, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpls.core.schedule import Draft, Offers, everything, schedule
from mpls.core.settings import PlanSettings
from mpls.core.streams import Stream

PLAIN = PlanSettings(fill="off")
EFT = replace(PLAIN, scheduler="eft")
BOTH = pytest.mark.parametrize("scheduler", ["list", "eft"])

SPEEDS = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 5e6, 10e6, 15e6]), st.floats(1e-3, 1e12))
SIZES = st.one_of(st.sampled_from([0, 1, 2, 1000]), st.integers(0, 10**12))


@st.composite
def offers(draw: st.DrawFn, peers: int = 8, layers: int = 8) -> Offers:
    """Any mask, any sizes (empty layers too), and bandwidths with many ties."""
    speeds = draw(st.lists(SPEEDS, min_size=1, max_size=peers))
    sizes = draw(st.lists(SIZES, max_size=layers))
    cells = draw(
        st.lists(
            st.booleans(), min_size=len(speeds) * len(sizes), max_size=len(speeds) * len(sizes)
        )
    )
    return Offers(
        tuple(sizes), tuple(speeds), np.array(cells, bool).reshape(len(speeds), len(sizes))
    )


def full(speeds: list[float], sizes: list[int]) -> Offers:
    return Offers(tuple(sizes), tuple(speeds), np.ones((len(speeds), len(sizes)), bool))


def random_offers(seed: int, peers: int, layers: int) -> Offers:
    """10-15 MB/s links, sizes over four decades, about half of the pairs allowed."""
    draws = Stream(seed, "schedule", peers, layers)
    return Offers(
        layer_bytes=tuple(int(10 ** draws.between(2, 6)) for _ in range(layers)),
        bandwidth_Bps=tuple(draws.between(10e6, 15e6) for _ in range(peers)),
        allowed=draws.uniforms(peers * layers).reshape(peers, layers) < 0.5,
    )


def servable(offers: Offers) -> list[int]:
    return [i for i, size in enumerate(offers.layer_bytes) if size and offers.allowed[:, i].any()]


def algorithm_1(offers: Offers) -> list[list[int]]:
    """Lines 1-15 as printed, with size ties, in exact fractions."""
    sizes, speeds = offers.layer_bytes, [Fraction(speed) for speed in offers.bandwidth_Bps]
    peers, allowed = range(len(speeds)), offers.allowed
    mu1 = [[Fraction(size) / speed for size in sizes] for speed in speeds]
    phi = {i: min(mu1[s][i] for s in peers if allowed[s, i]) for i in servable(offers)}
    E = [{i: phi[i] / mu1[s][i] for i in phi if allowed[s, i]} for s in peers]
    rank = [fsum(map(float, E[s].values())) for s in peers]
    load, given = [Fraction(0) for _ in peers], list[list[int]]([] for _ in peers)
    q1, q2 = set(phi), set(peers)
    while q1:
        s = min(q2, key=lambda s: (load[s], -rank[s], s))
        mine = [i for i in E[s] if i in q1]
        best = min(mine, key=lambda i: (-E[s][i], -sizes[i], i), default=None)
        if best is None or (len(speeds) > 1 and float(E[s][best]) <= 1 / sqrt(len(speeds))):
            q2.remove(s)
            continue
        q1.remove(best)
        given[s].append(best)
        load[s] += mu1[s][best]
        rank[s] -= float(E[s][best])
    return given


def optimum_s(offers: Offers) -> float:
    """The shortest makespan of any assignment of one peer to each layer."""
    sources = [np.flatnonzero(offers.allowed[:, i]).tolist() for i in servable(offers)]
    best_s = float("inf")
    for chosen in product(*sources):
        draft = Draft(offers)
        for peer, layer in zip(chosen, servable(offers)):
            draft.give(peer, layer)
        best_s = min(best_s, draft.makespan_s())
    return best_s


@given(offers())
def test_the_list_scheduler_is_algorithm_1_line_by_line(offers: Offers) -> None:
    assert schedule(offers, PLAIN, None).layers == algorithm_1(offers)


@pytest.mark.parametrize(("peers", "layers"), [(29, 62), (99, 100)])
def test_the_list_scheduler_is_algorithm_1_at_real_sizes(peers: int, layers: int) -> None:
    offers = random_offers(1, peers, layers)
    assert schedule(offers, PLAIN, None).layers == algorithm_1(offers)


@given(offers(), st.sampled_from(["list", "eft"]), st.sampled_from(["size", "index"]))
def test_any_plan_covers_what_can_be_had_and_uses_no_masked_pair(
    offers: Offers, scheduler: str, tie: str
) -> None:
    """Also that the loop ends, for every S from 1, whatever the mask."""
    for fill in ("off", "paper", "downlink"):
        how = PlanSettings(scheduler=scheduler, tie=tie, fill=fill)
        draft = schedule(offers, how, downlink_Bps=1e7)
        pairs = [(s, i) for s, layers in enumerate(draft.layers) for i in layers]
        assert len(set(pairs)) == len(pairs)
        assert {i for _, i in pairs} == set(servable(offers))
        assert all(offers.allowed[pair] for pair in pairs)
        for s, speed in enumerate(offers.bandwidth_Bps):
            exact = sum(Fraction(offers.layer_bytes[i]) for i in draft.layers[s]) / Fraction(speed)
            assert draft.load_s(s) == pytest.approx(float(exact), rel=1e-15)
            assert draft.load_s(s) <= draft.makespan_s()


@BOTH
@settings(max_examples=50)
@given(offers=offers(peers=4, layers=4))
def test_no_plan_is_shorter_than_the_optimum(scheduler: str, offers: Offers) -> None:
    draft = schedule(offers, replace(PLAIN, scheduler=scheduler), None)
    assert draft.makespan_s() >= optimum_s(offers)


@BOTH
def test_small_plans_are_near_the_optimum(
    scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """S and L up to 4, 10-15 MB/s; the ratios are printed."""
    ratios = []
    for seed in range(200):
        draws = Stream(seed, "size")
        offers = random_offers(seed, 1 + draws.below(4), 1 + draws.below(4))
        if servable(offers):
            draft = schedule(offers, replace(PLAIN, scheduler=scheduler), None)
            ratios.append(draft.makespan_s() / optimum_s(offers))
    with capsys.disabled():
        mean, worst = fsum(ratios) / len(ratios), max(ratios)
        print(f"\n{scheduler}: makespan / optimum mean {mean:.3f}, worst {worst:.3f}", end=" ")
    assert min(ratios) == 1.0
    assert mean < {"list": 1.03, "eft": 1.02}[scheduler]


@BOTH
def test_a_single_peer_brings_everything(scheduler: str) -> None:
    """The printed bound 1/sqrt(1) would close the only peer."""
    draft = schedule(full([5.0], [10, 0, 30, 20]), PlanSettings(scheduler=scheduler), None)
    assert draft.layers == [[2, 3, 0]]
    assert draft.makespan_s() == 12.0


def test_three_near_equal_peers_share_eight_equal_layers() -> None:
    """The case that an earlier implementation got wrong: 8/0/0 and 0.533 s (style.md, 0)."""
    draft = schedule(full([15e6, 14e6, 13e6], [1_000_000] * 8), PLAIN, None)
    assert [len(layers) for layers in draft.layers] == [3, 3, 2]
    assert draft.makespan_s() == pytest.approx(0.2142857)


@pytest.mark.parametrize(("slow_Bps", "share"), [(500.0, 0), (501.0, 1)])
def test_a_peer_at_the_bound_is_closed_and_one_above_it_is_not(slow_Bps: float, share: int) -> None:
    """S = 4: the bound is exactly 1/2, and so is the efficiency of 500 against 1000."""
    draft = schedule(full([1000.0, slow_Bps, 1.0, 1.0], [10] * 3), PLAIN, None)
    assert len(draft.layers[1]) == share
    assert not draft.layers[2]
    assert not draft.layers[3]


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 1e6 / 7])
def test_efficiencies_equal_in_theory_compare_equal(scale: float) -> None:
    """Shortest time over own time differs in the last bit from layer to layer, the quotient of the
    bandwidths does not: so the larger layers go first whatever the scale."""
    sizes = [7, 11, 13, 17, 19, 23, 29]
    draft = schedule(full([2 * scale, 3 * scale, 3 * scale], sizes), PLAIN, None)
    assert draft.layers == [[4, 2], [6, 1, 0], [5, 3]]


def test_between_equal_efficiencies_the_larger_layer_goes_first() -> None:
    """LPT: 30 alone on one peer, 20 and 10 on the other."""
    draft = schedule(full([1.0, 1.0], [10, 20, 30]), PLAIN, None)
    assert draft.layers == [[2], [1, 0]]
    assert draft.makespan_s() == 30.0


def test_with_index_ties_the_layers_go_in_module_order() -> None:
    draft = schedule(full([1.0, 1.0], [10, 20, 30]), replace(PLAIN, tie="index"), None)
    assert draft.layers == [[0, 2], [1]]
    assert draft.makespan_s() == 40.0


def test_earliest_finish_weighs_the_load_against_the_speed() -> None:
    """3 s on the fast peer beats 4 s on the slow one, even as its second layer."""
    draft = schedule(full([10.0, 5.0], [20, 10, 2]), EFT, None)
    assert draft.layers == [[0, 2], [1]]


def test_an_empty_layer_is_pulled_from_nobody() -> None:
    assert schedule(full([1.0, 1.0], [0, 0]), PlanSettings(), None).layers == [[], []]
    assert everything(full([1.0, 1.0], [0, 3])).layers == [[1], [1]]


@BOTH
def test_without_peers_nothing_is_scheduled(scheduler: str) -> None:
    assert schedule(full([], [1, 2]), PlanSettings(scheduler=scheduler), None).layers == []


def test_the_fill_adds_copies_only_under_the_makespan() -> None:
    """5 s is the makespan; the second peer, with 3 s, has room for the 2 s layer."""
    offers = full([10.0, 10.0], [50, 20, 10])
    bare, filled = schedule(offers, PLAIN, None), schedule(offers, PlanSettings(), None)
    assert bare.layers == [[0], [1, 2]]
    assert bare.copies == [0, 0]
    assert filled.layers == [[0], [1, 2]]
    wider = schedule(full([10.0, 10.0, 10.0], [50, 20, 10]), PlanSettings(), None)
    assert wider.layers == [[0], [1, 2], [2, 1]]
    assert wider.copies == [0, 1, 1]


@given(offers(), st.sampled_from(["list", "eft"]), st.floats(0, 1e12))
def test_the_fill_changes_no_makespan_and_respects_the_downlink(
    offers: Offers, scheduler: str, downlink_Bps: float
) -> None:
    how = PlanSettings(scheduler=scheduler)
    bare = schedule(offers, replace(how, fill="off"), None)
    filled = schedule(offers, how, None)
    limited = schedule(offers, replace(how, fill="downlink"), downlink_Bps)
    for draft in (filled, limited):
        assert draft.makespan_s() == bare.makespan_s()
        for mine, base in zip(draft.layers, bare.layers):
            assert mine[: len(base)] == base
    limit_bytes = bare.makespan_s() * downlink_Bps
    assert not any(limited.copies) or sum(limited.bytes) <= limit_bytes


@BOTH
def test_a_downlink_that_was_never_measured_fills_nothing(scheduler: str) -> None:
    how = PlanSettings(scheduler=scheduler, fill="downlink")
    assert schedule(full([1.0] * 3, [5, 3]), how, None).copies == [0, 0, 0]


@BOTH
@given(offers=offers())
def test_larger_units_change_no_decision(scheduler: str, offers: Offers) -> None:
    """Bandwidths times 1024: only the seconds differ."""
    how = PlanSettings(scheduler=scheduler)
    faster = replace(offers, bandwidth_Bps=tuple(1024 * speed for speed in offers.bandwidth_Bps))
    assert schedule(faster, how, None).layers == schedule(offers, how, None).layers


@BOTH
@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True),
    speeds=st.lists(SPEEDS, min_size=1, max_size=6),
    data=st.data(),
)
def test_the_order_of_layers_of_different_sizes_does_not_matter(
    scheduler: str, sizes: list[int], speeds: list[float], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(sizes))
    how = PlanSettings(scheduler=scheduler)
    plans = [
        [[order[i] for i in layers] for layers in schedule(full(speeds, order), how, None).layers]
        for order in (sizes, shuffled)
    ]
    assert plans[0] == plans[1]
