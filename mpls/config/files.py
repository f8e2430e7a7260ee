"""Cluster files: TOML in, TOML out. Nothing here ever rewrites a user's file.

Read with tomllib, because the `toml` package accepts broken files in silence (`a = [` becomes an
empty list); written with `toml`, because tomllib cannot write.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toml
from pydantic import ValidationError

from mpls.config.cluster import ClusterConfig
from mpls.config.complaints import bad_input
from mpls.config.tables import TrainingTable, WorkerTable
from mpls.errors import BadInput

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LIMIT_BYTES = 2**24
"""No cluster file is larger; 10,000 workers take 1 MB."""


def builtin() -> ClusterConfig:
    """The cluster that `mpls` and `sim` run without a file: three workers on this machine, on the
    embedded digits. `configs/local.toml` spells it out."""
    return ClusterConfig(
        workers=tuple(
            WorkerTable(id=worker, name=f"w{worker}", address="127.0.0.1:0") for worker in range(3)
        ),
        training=TrainingTable(lr=0.1),
    )


def load(path: str | Path) -> ClusterConfig:
    """The cluster in a file. Raises BadInput, one line that names the file, for whatever is wrong
    with it."""
    try:
        with open(path, "rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(content) > LIMIT_BYTES:
        raise BadInput(f"{path}: larger than {LIMIT_BYTES} bytes; is this a cluster file?")
    try:
        return loads(content.decode(), str(path))
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a text file; a cluster file is TOML in UTF-8") from None


def loads(text: str, source: str) -> ClusterConfig:
    """The cluster in a TOML text. `source` names it in errors."""
    if "\0" in text:
        raise BadInput(f"{source}: not a text file; a cluster file is TOML in UTF-8")
    if not text.strip():
        raise BadInput(f"{source}: the file is empty; `mpls generate` writes a complete one")
    return _validate(tables_in(text, source), source)


def tables_in(text: str, source: str) -> dict[str, Any]:
    """What a TOML text says. Raises BadInput that names `source` and the line if it is none."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source}: {_syntax_error(text, str(error))}") from None


def dumps(config: ClusterConfig) -> str:
    """The whole configuration as TOML, defaults included; `loads` reads an equal one back."""
    return str(toml.dumps(_tables(config)))


def changed(
    config: ClusterConfig, tables: Mapping[str, Any], source: str = "command line"
) -> ClusterConfig:
    """A copy with some keys replaced, validated anew: `changed(c, {"training": {"rounds": 20}})`.
    What is not a table, such as `workers`, is replaced as a whole. BadInput names `source`."""
    content = _tables(config)
    for name, value in tables.items():
        if isinstance(value, Mapping) and isinstance(content.get(name), Mapping):
            value = {**content[name], **value}
        content[name] = value
    return _validate(content, source)


def _tables(config: ClusterConfig) -> dict[str, Any]:
    tables = config.model_dump(mode="json")
    tables["workers"] = [
        {key: value for key, value in worker.items() if value is not None}
        for worker in tables["workers"]
    ]
    return tables


def _validate(tables: dict[str, Any], source: str) -> ClusterConfig:
    try:
        return ClusterConfig.model_validate(tables)
    except ValidationError as error:
        raise bad_input(source, error, tables) from None


def _syntax_error(text: str, message: str) -> str:
    """tomllib's message with the line first: `line 3: not TOML: unclosed array`."""
    what, _, place = message.rpartition(" (at ")
    line = re.match(r"line (\d+)", place)
    if not what:
        return f"not TOML: {message}"
    number = line[1] if line else text.rstrip().count("\n") + 1
    return f"line {number}: not TOML: {what}"
