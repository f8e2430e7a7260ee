"""The command line's frame: which commands there are, and how a command ends.

A command's module is imported only when that command is used, so that `mpls --help` answers at
once.
"""

from __future__ import annotations

import importlib

import click

from mpls import __version__
from mpls.endings import ended

COMMANDS = {
    "run": "Run all workers of a cluster on this machine.",
    "worker": "Run one worker of a cluster, one of its servers.",
    "status": "Say how a run's workers are.",
    "doctor": "Say what would keep a cluster from running.",
    "check": "Validate a cluster file and say what would run.",
    "generate": "Write a cluster file.",
    "keys": "Make the keys with which workers know each other.",
    "deploy": "Put a cluster onto its servers, and look after it there.",
    "unit": "Write what a worker's systemd unit needs.",
    "checkpoint": "Look into a worker's checkpoints.",
    "plan": "Explain one scheduling decision.",
    "calibrate": "Measure this machine for the twin.",
    "convert": "Make a cluster file of old YAML files.",
    "grpc-conformance": "Hold a server against the gRPC contract.",
}
"""Each is `command` in the module of its name, with underscores."""


class LazyGroup(click.Group):
    """Knows its commands' names and short helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports it."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mpls.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpls")
def cli() -> None:
    """Decentralised federated learning: each worker pulls chosen layers from chosen peers.

    \b
    Begin with:
      mpls run                                  three workers here, on real digits
      mpls generate --workers 5 -o mine.toml    a cluster of your own
      mpls check mine.toml                      what it would do
      mpls run mine.toml

    Exit codes: 0 done, 1 failed, 2 bad input, 3 refused, 130 interrupted.
    """


def main(args: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    return ended(cli, args, "mpls")
