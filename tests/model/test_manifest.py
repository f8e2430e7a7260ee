"""The layout of a model's bytes, without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.model.manifest import Manifest

SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)
LAYERS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.lists(st.tuples(st.text("wb", min_size=1), SHAPES), min_size=1, max_size=3),
    min_size=1,
    max_size=6,
)
MLP = {"fc1": [("fc1.weight", (64, 784)), ("fc1.bias", (64,))], "fc2": [("fc2.weight", (10, 64))]}


@given(LAYERS, st.sampled_from(["<f2", "<f4", "<f8"]))
def test_the_layers_cover_the_buffer_in_order_without_gap_or_overlap(layers, dtype):
    manifest = Manifest.of(dtype, layers)
    flat = np.arange(len(manifest.empty()), dtype=dtype)
    joined = np.concatenate([layer.values_in(flat) for layer in manifest.layers])
    assert joined.tobytes() == flat.tobytes()
    assert sum(layer.layer_bytes for layer in manifest.layers) == manifest.total_bytes


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, np.array])
def test_a_layer_is_found_in_any_kind_of_buffer(wrap):
    manifest = Manifest.of("<f4", MLP)
    flat = np.arange(64 * 784 + 64 + 640, dtype=np.float32)
    fc2 = manifest.layers[1].values_in(wrap(flat))
    assert fc2.tolist() == flat[-640:].tolist()


def test_a_view_writes_through_to_the_buffer():
    manifest = Manifest.of("<f4", MLP)
    flat = manifest.empty()
    flat[:] = 0
    manifest.layers[1].values_in(flat)[:] = 7
    manifest.layers[0].bytes_in(flat)[0] = 1
    assert np.count_nonzero(flat == 7) == 640
    assert flat.view(np.uint8)[0] == 1


@pytest.mark.parametrize(
    ("dtype", "layers"),
    [
        ("<f8", {"a": [("a.w", (2, 3))], "b": [("b.w", (1,))]}),
        ("<f4", {"c": [("a.w", (2, 3))], "b": [("b.w", (1,))]}),
        ("<f4", {"a": [("a.v", (2, 3))], "b": [("b.w", (1,))]}),
        ("<f4", {"a": [("a.w", (3, 2))], "b": [("b.w", (1,))]}),
        ("<f4", {"b": [("b.w", (1,))], "a": [("a.w", (2, 3))]}),
        ("<f4", {"a": [("a.w", (2, 3)), ("b.w", (1,))]}),
    ],
)
def test_the_hash_tells_models_apart_by_type_names_shapes_and_order(dtype, layers):
    base = Manifest.of("<f4", {"a": [("a.w", (2, 3))], "b": [("b.w", (1,))]})
    assert Manifest.of(dtype, layers).hash != base.hash


def test_the_hash_is_the_same_on_every_machine_and_day():
    assert Manifest.of("<f4", MLP).hash == (
        "1dedea0418addd9946a992650be3d3758de5ce2bbcd66be4798a57d7572816e5"
    )


def test_manifest_data_and_partition_need_no_torch():
    code = (
        "import sys, mpls.model.manifest, mpls.model.data, mpls.model.partition\n"
        "mpls.model.data.load('digits', '')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
