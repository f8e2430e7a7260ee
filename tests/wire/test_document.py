"""docs/protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest

from mpls.core.protocol import ERROR_CODES, Chunk
from mpls.wire import decode, encode, frames
from mpls.wire.frames import LAYOUT_OF_TYPE

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"## {title}")[1], flags=re.M)[0]


def table(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    rows = [line.strip("|").split("|") for line in section(title).splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def example() -> list[bytes]:
    """The two frames of the worked example: the bytes at the start of each line."""
    (listing,) = re.findall(r"```hex\n(.*?)```", TEXT, re.S)
    lines = [re.match(r"(?:[0-9a-f]{2} +)+", line) for line in listing.splitlines()]
    parts = [bytes.fromhex(line.group()) for line in lines if line is not None]
    return [b"".join(parts[:-1]), parts[-1]]


def test_the_worked_example_is_what_it_says() -> None:
    data = b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    chunk = Chunk(3, "fc2", 8, 7, 0, 8, 0.25, data, 5613973946596914359, (0.5,), last=True)
    assert decode(example()) == chunk
    assert encode(chunk) == example()
    assert msgpack.unpackb(b"".join(example()))[1] == data


def test_every_message_is_in_the_table_with_its_keys() -> None:
    documented = {words(row[0])[0]: ["id", *words(row[1])] for row in table("Messages")}
    assert documented == {t: list(layout.shapes[-1]) for t, layout in LAYOUT_OF_TYPE.items()}


def test_the_table_says_which_messages_carry_data() -> None:
    documented = {words(row[0])[0]: row[2] != "-" for row in table("Messages")}
    assert documented == {t: layout.data_limit_bytes > 0 for t, layout in LAYOUT_OF_TYPE.items()}


@pytest.mark.parametrize("row", table("Limits"), ids=lambda row: words(row[0])[0])
def test_every_limit_has_its_value(row: list[str]) -> None:
    assert getattr(frames, words(row[0])[0]) == int(row[1].replace(",", ""))


def test_every_limit_is_in_the_table() -> None:
    constant = re.compile(r"[A-Z_]+(_LIMIT|_LEAST)(_BYTES)?")
    limits = {name for name in vars(frames) if constant.fullmatch(name)}
    assert {words(row[0])[0] for row in table("Limits")} == limits - {"UNSIGNED_LIMIT"}


def test_every_error_code_is_explained() -> None:
    assert [words(row[0])[0] for row in table("Errors")] == list(ERROR_CODES)
