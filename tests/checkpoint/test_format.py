"""A checkpoint's bytes: the same again, or refused with the place and the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from mpls.checkpoint import Damaged, decode, encode
from mpls.checkpoint import format as file_format
from tests.checkpoint.examples import checkpoint, same

WHOLE = encode(checkpoint())
shapes = arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)
tensors = st.dictionaries(
    st.text(min_size=1, max_size=8),
    arrays.arrays(st.sampled_from([np.float32, np.float64, np.uint8, np.int64]), shapes),
    max_size=4,
)


@given(tensors)
def test_what_was_encoded_is_decoded_bit_by_bit(some: dict[str, np.ndarray]) -> None:
    one = replace(checkpoint(), tensors=some)
    assert same(decode(encode(one), "x"), one)


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_row_22_no_flipped_bit_goes_unnoticed(bit: int) -> None:
    spoilt = bytearray(WHOLE)
    spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged, match=r"^x\.safetensors: "):
        decode(bytes(spoilt), "x.safetensors")


def test_row_22_no_truncated_file_is_believed() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(Damaged):
            decode(WHOLE[:length], "x")


@given(st.binary(max_size=200))
def test_row_22_other_bytes_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(Damaged) as refusal:
        decode(data, "x")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 1, 10**12])
def test_a_header_of_any_length_is_not_allocated(length: int) -> None:
    with pytest.raises(Damaged, match="no safetensors file"):
        decode(length.to_bytes(8, "little") + b"{}", "x")


def test_row_23_another_schema_is_named() -> None:
    later = with_metadata(schema="2")
    with pytest.raises(Damaged, match='schema "2"; this version reads 1'):
        decode(later, "x")


def test_row_22_the_safetensors_of_somebody_else_are_no_checkpoint() -> None:
    with pytest.raises(Damaged, match="no checkpoint of a worker"):
        decode(save({"weights": np.zeros(3)}, {"format": "pt"}), "x")


def test_a_state_of_other_fields_is_refused_even_with_the_right_sum() -> None:
    state = json.dumps({"worker": "w0"})
    whole = load(WHOLE)
    spoilt = with_metadata(state=state, sha256=file_format._sum(state, whole))
    with pytest.raises(Damaged, match="its state is not what this version writes"):
        decode(spoilt, "x")


def test_nothing_in_a_checkpoint_is_a_pickle() -> None:
    assert b"\x80\x04" not in WHOLE[:2]
    assert json.loads(WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")])["__metadata__"]


def with_metadata(**changed: str) -> bytes:
    length = int.from_bytes(WHOLE[:8], "little")
    metadata = json.loads(WHOLE[8 : 8 + length])["__metadata__"]
    return save(load(WHOLE), {**metadata, **changed})
