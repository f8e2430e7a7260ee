"""How a command ends: every error as one line, and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mpls import journald
from mpls.errors import INTERRUPTED, BadInput, MplsError

_HELP_ASKED = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""How click, from 8.2 on, says that a group was called without a command."""


def ended(command: click.Command, args: Sequence[str] | None, name: str) -> int:
    """Run a command that is called `name`; returns the exit code. The only place where errors
    become messages."""
    try:
        result = command.main(args, prog_name=name, standalone_mode=False)
    except MplsError as error:
        return _said(str(error), error.exit_code)
    except _HELP_ASKED as error:
        click.echo(str(error), err=True)
        return BadInput.exit_code
    except click.ClickException as error:
        return _said(_complaint(error, name), BadInput.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _complaint(error: click.ClickException, name: str) -> str:
    """What click found wrong with the command line, and where the good ones are described."""
    context = getattr(error, "ctx", None)
    text = error.format_message().strip()
    text = text if text.endswith(("?", "!", ".")) else f"{text}."
    return f"{text} See `{context.command_path if context else name} --help`"


def _said(text: str, exit_code: int) -> int:
    """One line, whatever was in the text: a user's value may hold anything."""
    line = " ".join(text.split())
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    line = f"error: {printable}"
    click.echo(journald.marked(line, "ERROR") if journald.reads_stderr() else line, err=True)
    return exit_code
