"""Messages to frames and back.

`decode` trusts nothing: whatever bytes arrive, it returns a message that keeps every rule of
`mpls.wire.frames`, or raises ProtocolError. Rules that need to know the request (which offset comes
next, how large the layer is) are those of `mpls.wire.incoming` and `mpls.wire.outgoing`.
`encode` applies the same rules, so that nothing leaves which a peer would refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import msgpack

from mpls.core.protocol import PROTOCOL_VERSION, Chunk, Error, Message
from mpls.errors import ProtocolError, shown
from mpls.wire.frames import (
    HEADER_LIMIT_BYTES,
    LAYERS_LIMIT,
    LAYOUT_OF_CLASS,
    LAYOUT_OF_TYPE,
    MESSAGE_LIMIT_BYTES,
    TEXT_LIMIT,
    UNPACK_LIMITS,
    Kind,
    Layout,
    Shape,
    bin_prefix,
)

Frames = list[Union[bytes, memoryview]]

_ARRAY_OF_1 = b"\x91"
_ARRAY_OF_2 = b"\x92"
_FIXMAP = 0x80
_LAYERS = b"layers"


def encode(message: Message) -> Frames:
    """The frames of a message: its header, and a view of its data (never a copy) if it has any.

    Raises ProtocolError when the message breaks a rule of the protocol.
    """
    layout = LAYOUT_OF_CLASS[type(message)]
    header = {"t": layout.t}
    for key, kind in _sent_shape(layout, message).items():
        header[key] = kind.pack(getattr(message, key))
        _check_value(layout, key, kind, header[key])
    body: bytes = msgpack.packb(header)
    if not layout.data_limit_bytes:
        return [_checked_header(_ARRAY_OF_1 + body)]
    data = memoryview(message.data).cast("B")  # type: ignore[union-attr]
    _check_data(layout, data)
    return [_checked_header(_ARRAY_OF_2 + body + bin_prefix(len(data))), data]


def decode(frames: Sequence[Any]) -> Message:
    """The message that these frames are; its data is a view of the frame as it was received.

    A frame is bytes, a memoryview or anything else with a contiguous buffer, such as zmq.Frame.
    Whatever is not exactly one message raises ProtocolError, with the request's id where that can
    be read.
    """
    header, data = _open(frames)
    request_id = header.get("id")
    try:
        return _read(header, data)
    except ProtocolError as error:
        if type(request_id) is int and request_id >= 0:  # msgpack knows no more than 64 bits
            error.request_id = request_id
        raise


def encoded_bytes(message: Message) -> int:
    """What the frames of a message weigh together."""
    return sum(map(len, encode(message)))


def refusal(error: ProtocolError) -> Error:
    """The reply to whoever sent what raised `error`, its text made fit to send. A request whose id
    could not be read is answered as request 0."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(error))
    return Error(error.request_id or 0, error.code, text[:TEXT_LIMIT])


def _open(frames: Sequence[Any]) -> tuple[dict[Any, Any], memoryview | None]:
    """The header, still unread, and the data: the frames joined must be one array of just these."""
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"{len(frames)} frames; a message has one or two", kind="frames")
    try:
        views = [memoryview(frame).cast("B") for frame in frames]
    except (TypeError, ValueError):
        raise ProtocolError("a frame that is no row of bytes", kind="frames") from None
    if len(views[-1]) > MESSAGE_LIMIT_BYTES:
        raise ProtocolError(f"a frame of {len(views[-1])} bytes is too long", kind="frames")
    _checked_header(views[0])
    head, data = bytes(views[0]), views[1] if len(views) == 2 else None
    start = _ARRAY_OF_1 if data is None else _ARRAY_OF_2
    end = b"" if data is None else bin_prefix(len(data))
    if not (head.startswith(start) and head.endswith(end)):
        raise ProtocolError("frame 1 announces other frames than came", kind="frames")
    return _unpack_header(head[len(start) : len(head) - len(end)]), data


def _unpack_header(body: bytes) -> dict[Any, Any]:
    """Only the value of `layers` may be an array with entries. If msgpack followed others as deep
    as it can, a header would cost 2 MB, since it allocates what each array announces."""
    try:
        header = _unpack_pull(body) if _LAYERS in body else msgpack.unpackb(body, **UNPACK_LIMITS)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(
            f"the header is no msgpack that we read: {error}", kind="msgpack"
        ) from None
    # The length that a fixmap announces counts a repeated key twice, the dict counts it once.
    if not isinstance(header, dict) or body[0] != _FIXMAP + len(header):
        raise ProtocolError("the header is no fixmap of different keys", kind="msgpack")
    return header


def _unpack_pull(body: bytes) -> dict[Any, Any]:
    """One value after the other, and those of `layers` as well."""
    unpacker = msgpack.Unpacker(max_buffer_size=HEADER_LIMIT_BYTES, **UNPACK_LIMITS)
    unpacker.feed(body)
    header: dict[Any, Any] = {}
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        header[key] = _unpack_names(unpacker) if key == "layers" else unpacker.unpack()
    if unpacker.tell() != len(body):
        raise ValueError("something trails")
    return header


def _unpack_names(unpacker: Any) -> list[Any]:
    names = unpacker.read_array_header()
    if names > LAYERS_LIMIT:
        raise ValueError(f"an array of {names}")
    return [unpacker.unpack() for _ in range(names)]


def _read(header: dict[Any, Any], data: memoryview | None) -> Message:
    layout = _layout_of(header.pop("t", None))
    shape = _received_shape(layout, header)
    for key, kind in shape.items():
        _check_value(layout, key, kind, header[key])
    _check_data(layout, data)
    fields = {key: kind.unpack(header[key]) for key, kind in shape.items()}
    if data is not None:
        fields["data"] = data
    if layout.message is Chunk:
        fields["last"] = "progress" in shape
    message: Message = layout.message(**fields)
    return message


def _layout_of(t: object) -> Layout:
    if not isinstance(t, str):
        raise ProtocolError("the header has no t (the type) that is a string", kind="keys")
    if t not in LAYOUT_OF_TYPE:
        raise ProtocolError(
            f"message type {shown(t)} is not in protocol version {PROTOCOL_VERSION}",
            "unsupported",
            kind="unsupported",
        )
    return LAYOUT_OF_TYPE[t]


def _received_shape(layout: Layout, header: dict[Any, Any]) -> Shape:
    for shape in layout.shapes:
        if header.keys() == shape.keys():
            return shape
    theirs = header.get("v", PROTOCOL_VERSION)
    if type(theirs) is int and theirs != PROTOCOL_VERSION:
        raise ProtocolError(
            f"{layout.t} of protocol version {theirs}; this worker speaks {PROTOCOL_VERSION}",
            "unsupported",
            kind="unsupported",
        )
    keys = ", ".join(map(shown, header))
    raise ProtocolError(f"{layout.t} cannot have exactly the keys {keys}", kind="keys")


def _sent_shape(layout: Layout, message: Message) -> Shape:
    if not isinstance(message, Chunk):
        return layout.shapes[0]
    assert message.sum is not None or not message.last, "a pull ends where a layer ends"
    assert message.progress is None or message.last, "only the last chunk carries progress"
    return layout.shapes[(message.sum is not None) + message.last]


def _check_value(layout: Layout, key: str, kind: Kind, value: object) -> None:
    if not kind.fits(value):
        # A container is not shown: it may be nested too deeply to be written out.
        found = f"a {type(value).__name__}" if isinstance(value, (dict, list)) else shown(value)
        raise ProtocolError(f"{layout.t}: {key} must be {kind.allowed}, not {found}", kind="value")


def _check_data(layout: Layout, data: memoryview | None) -> None:
    """Every second frame holds at least a byte, so that a message without data has no empty one."""
    most = layout.data_limit_bytes
    length = 0 if data is None else len(data)
    if (data is None) != (most == 0) or not min(1, most) <= length <= most:
        raise ProtocolError(
            f"{layout.t}: a frame of {length} bytes of data; up to {most} are allowed",
            kind="frames",
        )


def _checked_header(frame: Any) -> Any:
    if len(frame) > HEADER_LIMIT_BYTES:
        raise ProtocolError(
            f"a header of {len(frame)} bytes; {HEADER_LIMIT_BYTES} are allowed", kind="frames"
        )
    return frame
