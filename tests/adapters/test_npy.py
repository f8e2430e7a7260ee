""".npy files: the same bytes as numpy's, and nothing else is taken for one.

Method: numpy writes, this reads, and the other way round; then every kind of malformed file is
offered, and what was allocated meanwhile is counted.
"""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.adapters import npy
from mpls.errors import ProtocolError


def saved(values: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=allow_pickle)
    return file.getvalue()


@given(st.integers(0, 5000))
def test_a_file_is_numpy_s_to_the_byte(count: int) -> None:
    values = np.arange(count, dtype="<f4")
    assert npy.image(values.tobytes()) == saved(values)
    assert npy.values_in(saved(values), count).tobytes() == values.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(version: tuple[int, int]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(7, dtype="<f4"), version)
    assert npy.values_in(file.getvalue(), 7).tobytes() == np.arange(7, dtype="<f4").tobytes()


def file_with(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + data


def header(descr: str = "'<f4'", shape: str = "(10,)", order: str = "False") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


BAD = {
    "nothing": (b"", "npy"),
    "no magic": (b"PK\x03\x04" + bytes(60), "npy"),
    "a pickle": (b"\x80\x04\x95" + bytes(60), "npy"),
    "cut in the magic": (b"\x93NUM", "npy"),
    "cut in the length": (b"\x93NUMPY\x01\x00\x10", "npy"),
    "cut in the header": (b"\x93NUMPY\x01\x00\x40\x00{'descr'", "npy"),
    "version 9": (file_with(header(), bytes(40), b"\x09\x00"), "npy"),
    "object dtype": (saved(np.array([[1], "x"], dtype=object), allow_pickle=True), "dtype"),
    "float64": (saved(np.zeros(10)), "dtype"),
    "float16": (saved(np.zeros(10, "<f2")), "dtype"),
    "big-endian": (saved(np.zeros(10, ">f4")), "dtype"),
    "structured": (saved(np.zeros(10, [("a", "<f4")])), "npy"),
    "two dimensions": (saved(np.zeros((2, 5), "<f4")), "npy"),
    "no dimension": (saved(np.float32(1)), "npy"),
    "one value less": (saved(np.zeros(9, "<f4")), "shape"),
    "zero-size": (saved(np.zeros(0, "<f4")), "shape"),
    "2^40 x 2^40": (file_with(header(shape="(1099511627776, 1099511627776)")), "npy"),
    "2^60 values": (file_with(header(shape="(1152921504606846976,)")), "shape"),
    "negative": (file_with(header(shape="(-10,)"), bytes(40)), "npy"),
    "too short": (file_with(header(), bytes(39)), "npy"),
    "too long": (file_with(header(), bytes(41)), "npy"),
    "header bomb": (file_with(b"(" * 60000, bytes(40)), "npy"),
    "4 GiB header": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(60), "npy"),
    "python in it": (file_with(header(shape="(__import__('os'),)"), bytes(40)), "npy"),
    "another key": (file_with(header()[:-2] + b"'x': 1, }\n", bytes(40)), "npy"),
}


@pytest.mark.parametrize("name", BAD)
def test_row_57_what_is_no_flat_file_of_ten_float32_is_refused_before_anything_is_allocated(
    name: str,
) -> None:
    file, kind = BAD[name]
    tracemalloc.start()
    with pytest.raises(ProtocolError) as refusal:
        npy.values_in(file, 10)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal.value.kind == kind
    assert str(refusal.value).isprintable()
    assert peak_bytes < 200_000


def outcome(file: bytes, values: int) -> int | str:
    """How many bytes of values, or the kind of the refusal."""
    try:
        return len(npy.values_in(file, values))
    except ProtocolError as error:
        return error.kind


@given(st.binary(max_size=300), st.integers(0, 40))
def test_any_bytes_are_values_or_refused(file: bytes, values: int) -> None:
    assert outcome(file, values) in (4 * values, "npy", "dtype", "shape")


@given(st.integers(0, 167), st.integers(0, 255))
def test_a_changed_byte_gives_as_many_values_or_none(place: int, byte: int) -> None:
    file = bytearray(saved(np.arange(10, dtype="<f4")))
    file[place] = byte
    assert outcome(bytes(file), 10) in (40, "npy", "dtype", "shape")
