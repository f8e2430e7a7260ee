"""`mpls checkpoint`: what is in a checkpoint, whether it is whole, and its weights for others."""

from __future__ import annotations

import io
import json
import time
from math import prod
from pathlib import Path
from typing import Any

import click

from mpls.cli.options import write_bytes
from mpls.errors import BadInput

BUFFER = "buffer."
FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group("checkpoint")
def command() -> None:
    """Look into a worker's checkpoints.

    FILE is one of them, or a worker's state folder: then its newest.

    \b
    Examples:
      mpls checkpoint show runs/local-w0.state
      mpls checkpoint verify runs/latest/w0.state/step-000000012000.safetensors
      mpls checkpoint export runs/local-w0.state -o weights.safetensors
    """


@command.command()
@FILE
@click.option("--json", "as_json", is_flag=True, help="Everything but the tensors, as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Say what FILE holds."""
    from mpls.checkpoint import decode

    path, data = _read(file)
    checkpoint = decode(data, str(path))
    if as_json:
        click.echo(json.dumps({"file": str(path), **checkpoint.state}))
        return
    about = _about(path, len(data), checkpoint)
    width = max(len(name) for name, _ in about)
    for name, value in about:
        click.echo(f"{name:<{width}}  {value}")


@command.command()
@FILE
def verify(file: Path) -> None:
    """Say whether FILE is whole: its form, and the SHA-256 of its content."""
    from mpls.checkpoint import decode

    path, data = _read(file)
    checkpoint = decode(data, str(path))
    click.echo(f"{path}: whole; round {checkpoint.round} of worker {checkpoint.worker}")


@command.command()
@FILE
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help=".safetensors or .pt"
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def export(file: Path, output: Path, force: bool) -> None:
    """Write the weights alone, tensor by tensor under the names that the module gives them.

    The ending of --output says how: .safetensors, or .pt for a PyTorch state_dict (torch.load)."""
    from mpls.checkpoint import decode

    if output.suffix not in (".safetensors", ".pt"):
        raise BadInput(f"--output {output}: must end in .safetensors or .pt")
    if output.exists() and not force:
        raise BadInput(f"{output}: exists already; --force overwrites it")
    path, data = _read(file)
    tensors = _weights(decode(data, str(path)), path)
    write_bytes(output, _as_torch(tensors) if output.suffix == ".pt" else _as_safetensors(tensors))


def _read(file: Path) -> tuple[Path, bytes]:
    try:
        if file.is_dir():
            generations = sorted(file.glob("step-*.safetensors"))
            if not generations:
                raise BadInput(f"{file}: no checkpoint in this folder")
            file = generations[-1]
        return file, file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {(error.strerror or str(error)).lower()}") from None


def _about(path: Path, size: int, checkpoint: Any) -> list[tuple[str, object]]:
    applied = sum(len(layers) for layers in checkpoint.ledger.values())
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(checkpoint.saved_unix_s))
    learner = checkpoint.learner
    return [
        ("file", f"{path}, {size:,} bytes, whole"),
        ("saved", saved),
        ("worker", checkpoint.worker),
        ("model", checkpoint.model[:16]),
        ("round", f"{checkpoint.round}, and {checkpoint.begun} local steps of the next"),
        ("steps", f"{checkpoint.steps:,}, {learner['passed']} in the present pass"),
        ("tensors", ", ".join(f"{n} {list(v.shape)}" for n, v in checkpoint.tensors.items())),
        ("applied", f"latest copies of {applied} layers from {len(checkpoint.ledger)} peers"),
        *((key, value) for key, value in checkpoint.learning.items()),
    ]


def _weights(checkpoint: Any, path: Path) -> dict[str, Any]:
    """Every tensor of the module's state_dict, by name."""
    flat, start, tensors = checkpoint.tensors["weights"], 0, {}
    for name, shape in checkpoint.learner["layout"]:
        stop = start + prod(shape)
        tensors[name] = flat[start:stop].reshape(shape)
        start = stop
    if start != flat.size:
        raise BadInput(f"{path}: {flat.size} weights, and names for {start}")
    buffers = {name: it for name, it in checkpoint.tensors.items() if name.startswith(BUFFER)}
    return tensors | {name[len(BUFFER) :]: values for name, values in buffers.items()}


def _as_safetensors(tensors: dict[str, Any]) -> bytes:
    from safetensors.numpy import save

    return save(tensors)


def _as_torch(tensors: dict[str, Any]) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save({name: torch.from_numpy(values.copy()) for name, values in tensors.items()}, content)
    return content.getvalue()
