"""NumPy's .npy file format, as far as a flat array of float32 needs it.

Read without `numpy.load`: its header is Python source, and what it announces is allocated before
anybody looks whether it came. Here the header must say exactly what is expected, and the values
stay where they are.
"""

from __future__ import annotations

import re

from mpls.core.protocol import Bytes
from mpls.errors import ProtocolError, shown

_MAGIC = b"\x93NUMPY"
_ALIGNMENT = 64
HEADER_LIMIT_BYTES = 1024
_HEADER = re.compile(
    rb"\{\s*'descr':\s*'([^']{1,16})',\s*'fortran_order':\s*(?:True|False),"
    rb"\s*'shape':\s*\(\s*([0-9]{1,20})\s*,\s*\)\s*,?\s*\}\s*"
)
ITEM_BYTES = 4


def header(values: int) -> bytes:
    """What precedes so many float32 in a file of format version 1.0."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({values},), }}"
    room = -(len(_MAGIC) + 4 + len(text) + 1) % _ALIGNMENT
    content = text.encode() + b" " * room + b"\n"
    return _MAGIC + b"\x01\x00" + len(content).to_bytes(2, "little") + content


def image(data: Bytes) -> bytes:
    """The file with these bytes of float32 in it."""
    return b"".join((header(len(data) // ITEM_BYTES), data))


def values_in(file: bytes, values: int) -> memoryview:
    """The bytes of exactly so many float32 in a file. Raises ProtocolError whose kind says what is
    wrong with it: `npy`, `dtype` or `shape`; nothing is allocated before."""
    start, content = _split(file)
    found = _HEADER.fullmatch(content)
    if found is None:
        raise ProtocolError("no .npy header of a flat array", kind="npy")
    if found[1] != b"<f4":
        kind = found[1].decode("ascii", "replace")
        raise ProtocolError(f"values of type {shown(kind)}, not <f4", kind="dtype")
    if int(found[2]) != values:
        raise ProtocolError(f"{int(found[2])} values, not {values}", kind="shape")
    if len(file) - start != values * ITEM_BYTES:
        came = f"{len(file) - start} bytes"
        raise ProtocolError(f"{came} of values, not {values * ITEM_BYTES}", kind="npy")
    return memoryview(file)[start:]


def _split(file: bytes) -> tuple[int, bytes]:
    """Where the values begin, and the header's text."""
    version = file[6:8]
    width = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(version, 0)
    if not file.startswith(_MAGIC) or not width:
        raise ProtocolError("no .npy file", kind="npy")
    length = int.from_bytes(file[8 : 8 + width], "little")
    start = 8 + width + length
    if length > HEADER_LIMIT_BYTES or start > len(file):
        raise ProtocolError(f"a .npy header of {length} bytes", kind="npy")
    return start, file[8 + width : start]
