"""Eq. 1 against a plain float64 reference, and what may not happen to a sum."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from mpls.core import mixing
from mpls.core.mixing import LayerSum

Values = NDArray[np.float32]
FLOAT32_MAX = float(np.finfo(np.float32).max)


@st.composite
def models(draw: st.DrawFn) -> list[Values]:
    """The own layer and up to four copies."""
    size, models = draw(st.integers(1, 50)), draw(st.integers(1, 5))
    values = st.floats(-(2.0**100), 2.0**100, width=32)
    return [draw(arrays.arrays(np.float32, size, elements=values)) for _ in range(models)]


def mixed(own: Values, copies: list[Values], **options: float) -> Values:
    total, result = LayerSum(), own.copy()
    for copy in copies:
        assert total.add(copy, **options)
    total.mix_into(result)
    return result


@given(models())
def test_mixing_is_the_plain_mean_of_own_and_all_copies(models: list[Values]) -> None:
    own, *copies = models
    exact = np.mean(np.array(models, np.float64), axis=0)
    scale = np.abs(np.array(models, np.float64)).max(axis=0)
    assert (np.abs(mixed(own, copies) - exact) <= 1e-6 * scale + 1e-37).all()


@given(models(), st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_row_50_a_copy_that_is_not_finite_is_refused_and_leaves_no_trace(
    models: list[Values], poison: float, data: st.DataObject
) -> None:
    own, *copies = models
    bad = own.copy()
    bad[data.draw(st.integers(0, own.size - 1))] = poison
    where = data.draw(st.integers(0, len(copies)))
    total, result = LayerSum(), own.copy()
    for copy in copies[:where]:
        assert total.add(copy)
    assert not total.add(bad)
    for copy in copies[where:]:
        assert total.add(copy)
    total.mix_into(result)
    assert total.count == len(copies)
    assert result.tolist() == mixed(own, copies).tolist()


def test_a_layer_nobody_delivered_stays_as_it_is() -> None:
    own = np.arange(5, dtype=np.float32)
    assert mixed(own, []).tolist() == own.tolist()


@given(models())
def test_the_mean_has_the_bits_of_the_printed_formula(models: list[Values]) -> None:
    own, *copies = models
    total = np.zeros_like(own)
    for copy in copies:
        total = total + copy
    assert mixed(own, copies).tolist() == ((total + own) / np.float32(len(models))).tolist()


def test_the_order_of_adding_is_the_order_of_summing() -> None:
    """1e8 swallows 1, but not the sum of eight of them: live and replayed sums are bit-equal only
    if added up in one order."""
    own, one, large = (np.full(1, value, np.float32) for value in (0, 1, 1e8))
    assert mixed(own, [one] * 8 + [large]) > mixed(own, [large] + [one] * 8)


def test_many_blocks_are_all_mixed() -> None:
    size = 2 * mixing.BLOCK + 7
    own, copy = np.zeros(size, np.float32), np.full(size, 3, np.float32)
    assert (mixed(own, [copy, copy]) == 2).all()
    assert mixing.squared_distance(own, copy) == 9 * size


def test_bytes_unaligned_and_read_only_buffers_are_welcome() -> None:
    copy = np.array([1, 2, 3], np.float32)
    unaligned = memoryview(b"x" + copy.tobytes())[1:]
    own = np.zeros(3, np.float32)
    for buffer in (copy.tobytes(), bytearray(copy.tobytes()), unaligned, copy.data):
        assert mixed(own, [buffer, buffer, buffer]).tolist() == (copy * 0.75).tolist()  # type: ignore[list-item]


def test_the_copies_are_never_written_to() -> None:
    copies = [np.full(3, value, np.float32) for value in (1, 2, 4)]
    mixed(np.zeros(3, np.float32), copies)
    assert [copy.tolist() for copy in copies] == [[1] * 3, [2] * 3, [4] * 3]


def test_the_first_copy_may_lend_its_memory_to_the_sum() -> None:
    first, second, own = (np.full(3, value, np.float32) for value in (1, 2, 6))
    total = LayerSum(storage=first)
    assert total.add(first)
    assert total.add(second)
    total.mix_into(own)
    assert first.tolist() == [3] * 3
    assert own.tolist() == [3] * 3


def test_float64_layers_keep_their_precision() -> None:
    total, own = LayerSum(np.float64), np.array([1.0])
    assert total.add(np.array([1.0 + 2.0**-40]).tobytes())
    total.mix_into(own)
    assert own[0] == 1 + 2.0**-41


@pytest.mark.parametrize("value", [1e-30, 1.0, 1e19, 1e30, FLOAT32_MAX])
def test_the_norm_survives_squares_that_overflow(value: float) -> None:
    """Such a copy is finite, and so not refused."""
    values = np.full(16, value, np.float32)
    assert mixing.norm(values) == pytest.approx(4 * value, rel=1e-6, abs=1e-25)
    assert LayerSum().add(values)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_the_norm_of_what_is_not_finite_is_not_finite(poison: float) -> None:
    assert not math.isfinite(mixing.norm(np.array([1e30, poison, 2], np.float32)))


def test_a_copy_beyond_the_limit_is_scaled_down_to_it() -> None:
    near, far = np.array([3, 4], np.float32), np.array([60, 80], np.float32)
    assert mixed(np.zeros(2, np.float32), [far], norm_limit=10.0).tolist() == [3, 4]
    assert mixed(np.zeros(2, np.float32), [near], norm_limit=10.0).tolist() == [1.5, 2]


@given(models())
def test_progress_is_the_squared_distance_of_two_versions(models: list[Values]) -> None:
    now, before = models[0] / 2**90, models[-1] / 2**90
    exact = float(((now.astype(np.float64) - before) ** 2).sum())
    assert mixing.squared_distance(now, before) == pytest.approx(exact, rel=1e-5, abs=1e-30)


def test_an_empty_layer_mixes_and_measures() -> None:
    nothing = np.empty(0, np.float32)
    assert mixed(nothing, [nothing]).size == 0
    assert LayerSum().add(b"")
    assert mixing.squared_distance(nothing, nothing) == 0.0


def test_mixing_makes_no_temporaries() -> None:
    own, copy, storage = (np.ones(1_000_000, np.float32) for _ in range(3))
    tracemalloc.start()
    total = LayerSum(storage=storage)
    for _ in range(3):
        total.add(copy)
    total.mix_into(own)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64_000
