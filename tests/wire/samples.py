"""Messages for the tests of this room: one plain example of each, and hypothesis strategies."""

from __future__ import annotations

import msgpack
from hypothesis import strategies as st

from mpls.core.protocol import (
    ERROR_CODES,
    PROBE_LIMIT_BYTES,
    Cancel,
    Chunk,
    Credit,
    Error,
    Hello,
    Message,
    Ping,
    Pong,
    Probe,
    ProbeData,
    Pull,
    Status,
    StatusOk,
    Welcome,
)
from mpls.wire.frames import CREDIT_LEAST_BYTES, CREDIT_LIMIT_BYTES, bin_prefix

EXAMPLES: tuple[Message, ...] = (
    Hello(1, "w0", "5f" * 32, (0.25, 0.75), 2667),
    Welcome(1, "w1", "5f" * 32, (0.5, 0.5), 2666),
    Status(2),
    StatusOk(2, "running", 7, 8, (0.5, 0.0), 0.003),
    Pull(3, ("fc1", "fc2"), 0, 0, 2**21),
    Chunk(3, "fc1", 8, 7, 0, 200_960, 0.001, b"inner"),
    Chunk(3, "fc1", 8, 7, 200_955, 200_960, 0.001, b"outer", sum=2**63),
    Chunk(3, "fc2", 8, 7, 0, 4, 0.001, b"last", sum=0, progress=(0.5, 0.0), last=True),
    Credit(3, 2**20),
    Cancel(3),
    Ping(4, 12.5),
    Pong(4, 12.5),
    Probe(5, 65_536),
    ProbeData(5, b"anything"),
    Error(6, "busy", "4 at a time"),
)
"""Every type of message, and a chunk of each shape."""


def frames_of(header: object, *data: bytes) -> list[bytes]:
    """Well-framed, as a peer would send it that does not care what it writes into the header."""
    return framed(msgpack.packb(header), *data)


def framed(body: bytes, *data: bytes) -> list[bytes]:
    """Any bytes as the header of a message that is well-framed around it."""
    if not data:
        return [b"\x91" + body]
    return [b"\x92" + body + bin_prefix(len(data[0])), *data]


unsigned = st.integers(0, 2**64 - 1)
measures = st.floats(0, allow_nan=False, allow_infinity=False)
_letters = st.characters(codec="utf-8").filter(str.isprintable)
names = st.text(_letters, min_size=1, max_size=128)
data = st.binary(min_size=1, max_size=300)
vectors = st.lists(measures, max_size=40).map(tuple)
progress = st.none() | vectors


@st.composite
def histograms(draw: st.DrawFn) -> tuple[float, ...]:
    """Shares of 1 to 40 classes that sum to 1."""
    counts = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
    return tuple(count / sum(counts) for count in counts)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """A chunk within a layer, at its end, or at the end of the pull."""
    ending = draw(st.sampled_from(("inner", "layer", "pull")))
    return Chunk(
        draw(unsigned),
        draw(names),
        draw(st.integers(1, 2**64 - 1)),
        draw(unsigned),
        draw(unsigned),
        draw(unsigned),
        draw(measures),
        draw(data),
        sum=None if ending == "inner" else draw(unsigned),
        progress=draw(progress) if ending == "pull" else None,
        last=ending == "pull",
    )


_introductions = (unsigned, names, names, histograms(), unsigned, unsigned)

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, *_introductions),
    st.builds(Welcome, *_introductions),
    st.builds(Status, unsigned),
    st.builds(StatusOk, unsigned, names, unsigned, unsigned, progress, measures),
    st.builds(
        Pull,
        unsigned,
        st.lists(names, min_size=1, max_size=20, unique=True).map(tuple),
        unsigned,
        unsigned,
        st.integers(CREDIT_LEAST_BYTES, CREDIT_LIMIT_BYTES),
    ),
    chunks(),
    st.builds(Credit, unsigned, unsigned),
    st.builds(Cancel, unsigned),
    st.builds(Ping, unsigned, measures),
    st.builds(Pong, unsigned, measures),
    st.builds(Probe, unsigned, st.integers(1, PROBE_LIMIT_BYTES)),
    st.builds(ProbeData, unsigned, data),
    st.builds(
        Error,
        unsigned,
        st.sampled_from(ERROR_CODES),
        st.text(_letters, max_size=256),
    ),
)
