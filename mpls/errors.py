"""Every error that a user can meet, and the exit code that each one ends a command with."""

from __future__ import annotations

import json


class MplsError(Exception):
    """The root. `exit_code` is what the command line ends with (design: 1 failed, 2 bad input,
    3 refused at run time)."""

    exit_code = 1


class RunFailed(MplsError):
    """A run ended, but not well: a worker died, or a goal of a check was missed."""


class BadInput(MplsError):
    """A file, flag or value given by the user cannot be used. The message is one line that names
    the place, the value and what is allowed."""

    exit_code = 2


class Refused(MplsError):
    """Everything is well formed, but may not go ahead: keys, locks, another model."""

    exit_code = 3


class ProtocolError(MplsError):
    """A peer sent what the protocol does not allow. `code` is the error code of the wire protocol
    that the sender is answered with, `kind` what the refusal is counted under, and `request_id`
    whom to answer, where it could still be read."""

    def __init__(
        self,
        message: str,
        code: str = "bad-request",
        *,
        kind: str = "protocol",
        request_id: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.request_id = request_id


INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def shown(value: object) -> str:
    """A value as an error line names it: in JSON's notation, printable, at most 64 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not text.isprintable():
        text = json.dumps(value, default=str)
    return text if len(text) <= 64 else f"{text[:60]} ..."
