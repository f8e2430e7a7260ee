"""The corpus: inputs worth keeping, each in a file whose name says what it is.

`corpus/messages/KIND--WHAT.frames` holds the frames of a message that is refused as KIND, each
behind its length (4 bytes, big-endian). `corpus/sessions/WHAT.pieces` is in the same form what a
stranger writes into a TCP connection, piece by piece, each when the one before had its effect: all
at once libzmq refuses even what is valid. Both are replayed by the default tests, and the fuzzers
begin with them.

    python -m tests.fuzz.corpus

looks for refusals that no file shows yet, and keeps the shortest message found for each.
"""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

from mpls.errors import ProtocolError
from mpls.wire import decode
from tests.fuzz.messages import Made, Spoiler

FOLDER = Path(__file__).parent / "corpus"
SEARCHED = 400_000


def messages() -> dict[str, Made]:
    """By name: the kind of refusal, two dashes, and what is wrong."""
    files = sorted((FOLDER / "messages").glob("*.frames"))
    return {file.stem: unpacked(file.read_bytes()) for file in files}


def sessions() -> dict[str, Made]:
    """By name."""
    files = sorted((FOLDER / "sessions").glob("*.pieces"))
    return {file.stem: unpacked(file.read_bytes()) for file in files}


def packed(frames: Made) -> bytes:
    """As a file holds them."""
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def unpacked(content: bytes) -> Made:
    """The frames of a file."""
    frames, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        frames.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return frames


def refused_as(frames: Made) -> str | None:
    """The kind of refusal and what is wrong, without the values of this case; None if nothing is.
    The shortest of their kind make the corpus."""
    try:
        decode(frames)
    except ProtocolError as error:
        what = str(error).removeprefix("the header is no msgpack that we read: ")
        what = re.split(r' must | cannot |; |, not| byte| when|"', what)[0]
        words = re.findall("[a-z]+", what.lower()) or ["no", "msgpack"]
        return "-".join([error.kind, "", *words[:10]])
    return None


def main() -> None:
    """Search, and write what is new."""
    known, spoiler = messages(), Spoiler(random.Random("corpus"))
    for _ in range(SEARCHED):
        frames = spoiler.make()
        name = refused_as(frames)
        if name and (name not in known or len(packed(frames)) < len(packed(known[name]))):
            known[name] = frames
            (FOLDER / "messages" / f"{name}.frames").write_bytes(packed(frames))
    print(f"{len(known)} messages in the corpus")


if __name__ == "__main__":
    main()
