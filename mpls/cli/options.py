"""What several commands have in common."""

from __future__ import annotations

from pathlib import Path

import click

from mpls.errors import BadInput

calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Of `mpls calibrate`, kept with the run for `python -m sim compare`.  [default: "
    "calibration.json here, if it is of this machine]",
)


def write_or_print(path: Path | None, text: str) -> None:
    """To the file, or to stdout where there is none. BadInput where it cannot be written."""
    if path is None:
        click.echo(text, nl=False)
    else:
        write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """To the file, saying so on stderr. BadInput where it cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None
    click.echo(f"wrote {path}", err=True)
