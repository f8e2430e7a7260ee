"""What deploy/ says, for those who hold it against the code or run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"


def compose() -> dict[str, Any]:
    """The compose file, aliases and merges resolved."""
    content = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(content, dict)
    return content


def kubernetes() -> dict[str, dict[str, Any]]:
    """The resources, by kind; there is one of each."""
    resources = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    by_kind = {resource["kind"]: resource for resource in resources}
    assert len(by_kind) == len(resources)
    return by_kind


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions: word and the rest, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]
