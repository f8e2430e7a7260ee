"""Plays a transcript: lines of what reaches a worker's core, and what the core does about each.

A transcript is text that a person can review. Lines that begin with `at` or `wait` are the script
(`wait until 5 w1`: and w1 cannot be reached meanwhile); the indented lines below each are the
commands that the core answered with. `make golden` writes the indented lines anew, so that a change
of behaviour shows in the diff.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpls.core import messages, protocol
from mpls.core.conductor import Conductor
from mpls.core.plan import Layer
from mpls.core.round import Rounds
from mpls.core.settings import PlanSettings, PullSettings
from mpls.core.spec import WorkerSpec


def play(script: str) -> str:
    """The transcript with its answers written anew."""
    return "\n".join(_Stage().lines(script.splitlines())) + "\n"


def scripts() -> list[Path]:
    """All transcripts."""
    return sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


class _Stage:
    """One worker's core and what the script told it."""

    def __init__(self) -> None:
        self.conductor: Conductor
        self.asked: dict[int, str] = {}
        """Request -> peer."""

    def lines(self, script: list[str]) -> Iterator[str]:
        for line in script:
            if line.startswith("worker "):
                self.conductor = Conductor(Rounds(_spec(_fields(line.split()[1:]))))
            if line.startswith("  "):
                continue
            yield line
            word, *rest = shlex.split(line, comments=True) or [""]
            if word == "at":
                yield from self._at(float(rest[0]), rest[1], rest[2:])
            elif word == "wait":
                yield from self._wait(float(rest[1]), set(rest[2:]))

    def _at(self, now: float, what: str, args: list[str]) -> Iterator[str]:
        if what == "start":
            commands = self.conductor.start(now)
        else:
            fields = _fields(args)
            fields["peer"] = self.asked.get(int(args[0]), "") if what == "welcome" else ""
            commands = self.conductor.handle(_EVENTS[what](args, fields), now)
        return (f"  {self._told(command)}" for command in commands)

    def _told(self, command: messages.Command) -> str:
        if isinstance(command, messages.SendRequest):
            self.asked[command.message.id] = command.peer
        return _text(command)

    def _wait(self, until_s: float, without: set[str]) -> Iterator[str]:
        """Tick at every deadline up to then, each with its time. The peers in `without` cannot be
        reached meanwhile: what is sent to them fails at once."""
        while (due_s := self.conductor.deadline()) <= until_s:
            commands = self.conductor.handle(messages.Ticked(), due_s)
            while commands:
                command = commands.pop(0)
                yield f"  {due_s:.3f} {self._told(command)}"
                if isinstance(command, messages.SendRequest) and command.peer in without:
                    failure = messages.RequestFailed(command.message.id, "unreachable")
                    commands += self.conductor.handle(failure, due_s)


def _spec(fields: dict[str, str]) -> WorkerSpec:
    layers = [item.split(":") for item in fields["layers"].split(",")]
    return WorkerSpec(
        name=fields.get("name", "w0"),
        seed=1,
        peers=tuple(fields["peers"].split(",")),
        layers=tuple(Layer(name, int(size)) for name, size in layers),
        model="m",
        histogram=(0.5, 0.5),
        samples=100,
        plan=PlanSettings(strategy=fields.get("strategy", "mpls")),
        pull=PullSettings(status_s=float(fields.get("status_s", 0))),
    )


def _fields(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def _vector(text: str | None) -> tuple[float, ...] | None:
    return tuple(map(float, text.split(","))) if text else None


def _welcome(args: list[str], fields: dict[str, str]) -> messages.Event:
    histogram = _vector(fields.get("labels", "0.5,0.5")) or ()
    return messages.Replied(protocol.Welcome(int(args[0]), fields["peer"], "m", histogram, 100))


def _status(args: list[str], fields: dict[str, str]) -> messages.Event:
    progress = _vector(fields.get("g"))
    version = int(fields.get("v", 1))
    return messages.Replied(
        protocol.StatusOk(int(args[0]), "running", int(fields["round"]), version, progress, 0.001)
    )


def _layer(args: list[str], fields: dict[str, str]) -> messages.Event:
    return messages.LayerReceived(
        int(args[0]),
        args[1],
        int(fields.get("bytes", 0)),
        int(fields["v"]),
        int(fields.get("round", 1)),
        0.0,
        _vector(fields.get("g")),
    )


_EVENTS: dict[str, Any] = {
    "welcome": _welcome,
    "status": _status,
    "layer": _layer,
    "round": lambda args, _: messages.RoundDue(int(args[0])),
    "taken": lambda args, _: messages.UpdateTaken(int(args[0])),
    "bytes": lambda args, fields: messages.Progress(int(args[0]), int(args[1]), int(fields["v"])),
    "lost": lambda args, fields: messages.RequestFailed(
        int(args[0]), args[1], int(fields.get("bytes", 0)), int(fields.get("v", 0))
    ),
    "bad": lambda args, _: messages.LayerRefused(int(args[0]), args[1], args[2]),
    "error": lambda args, _: messages.Replied(protocol.Error(int(args[0]), args[1], "")),
    "peers": lambda args, _: messages.PeersChanged(tuple(args[0].split(","))),
    "drain": lambda args, _: messages.Drained(),
    "tick": lambda args, _: messages.Ticked(),
}


def _text(command: messages.Command) -> str:
    if isinstance(command, messages.SendRequest):
        return f"send {command.peer} #{command.message.id} {_message_text(command.message)}"
    if isinstance(command, messages.CancelRequest):
        return f"cancel {command.peer} #{command.request_id}"
    if isinstance(command, messages.PublishUpdate):
        sources = [f"{s.layer}<-{s.peer}#{s.request_id}v{s.version}" for s in command.sources]
        return f"publish round {command.round}: {' '.join(sources) or 'nothing'}"
    return f"note {command.kind}: {_note_text(command.kind, command.fields)}"


def _message_text(message: Any) -> str:
    if isinstance(message, protocol.Pull):
        resumed = f" v{message.version}+{message.offset}" if message.version else ""
        return f"pull {' '.join(message.layers)}{resumed} credit {message.credit}"
    if isinstance(message, protocol.Probe):
        return f"probe {message.bytes}"
    return type(message).__name__.lower()


def _note_text(kind: str, fields: dict[str, Any]) -> str:
    if kind == "plan":
        parts = [f"{peer}=[{' '.join(layers)}]" for peer, layers in fields["assignment"].items()]
        return f"round {fields['round']} {' '.join(parts)} makespan {fields['makespan_s']:.4f} s"
    if kind == "round":
        ends = [f"{count} {reason}" for reason, count in fields["ends"].items()]
        return f"{fields['round']} planned {fields['planned']}: {', '.join(ends) or 'nothing'}"
    if kind == "attempt":
        return f"{fields['peer']} {fields['outcome']} after {fields['seconds']:.3f} s"
    if kind == "pull":
        return f"{fields['peer']} {fields['layer']} {fields['outcome']}"
    return " ".join(str(value) for value in fields.values() if value != "")
