"""A checkpoint's bytes: the same again, or refused with the place and the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save
from safetensors.numpy import load_file as numpy_file
from safetensors.torch import load_file as torch_file

from mpls.checkpoint import Damaged, decode, encode
from mpls.checkpoint import format as file_format
from tests.checkpoint.examples import checkpoint, content, same

WHOLE = content(checkpoint())
shapes = arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)
tensors = st.dictionaries(
    st.text(min_size=1, max_size=8),
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.bool_, np.float16]), shapes
    ),
    max_size=4,
)


@given(tensors)
def test_what_was_encoded_is_decoded_bit_by_bit(some: dict[str, np.ndarray]) -> None:
    one = replace(checkpoint(), tensors=some)
    assert same(decode(content(one), "x"), one)


@given(tensors)
def test_the_header_says_what_the_librarys_own_would(some: dict[str, np.ndarray]) -> None:
    """But for the order of equally wide types, which is each writer's choice."""
    ours = content(replace(checkpoint(), tensors=some))
    theirs = save(some, header(ours)["__metadata__"])
    about, wanted = header(ours), header(theirs)
    start = 8 + int.from_bytes(ours[:8], "little")
    assert start % 8 == 0
    for name, values in some.items():
        at, _ = about[name].pop("data_offsets"), wanted[name].pop("data_offsets")
        assert at[0] % values.itemsize == 0
        assert ours[start:][slice(*at)] == values.tobytes()
    assert about == wanted


def test_torch_and_numpy_read_a_file_that_was_written(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(WHOLE)
    some = checkpoint().tensors
    for loaded in (numpy_file(file), {k: v.numpy() for k, v in torch_file(file).items()}):
        assert same(replace(checkpoint(), tensors=loaded), checkpoint())
        assert loaded.keys() == some.keys()


def test_what_lies_otherwise_in_memory_is_the_same_file() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    one = replace(checkpoint(), tensors={"x": values})
    for other in (np.asfortranarray(values), values.astype(">f4"), np.repeat(values, 2, 1)[:, ::2]):
        assert content(replace(one, tensors={"x": other})) == content(one)


def test_the_memory_of_tensors_is_not_copied() -> None:
    one = checkpoint()
    _, *pieces = encode(one)
    assert len(pieces) == len(one.tensors)
    for values in one.tensors.values():
        assert any(np.shares_memory(values, np.frombuffer(it, np.uint8)) for it in pieces)


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
    assert header(WHOLE)["__metadata__"]


def with_metadata(**changed: str) -> bytes:
    return save(load(WHOLE), {**header(WHOLE)["__metadata__"], **changed})


def header(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
