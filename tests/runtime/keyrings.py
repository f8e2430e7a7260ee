"""Key files and keychains for tests: a cluster w0, w1, w2 with real keys on disk."""

from __future__ import annotations

from pathlib import Path

import zmq

from mpls.runtime.keys import Keychain, KeyFiles

NAMES = ("w0", "w1", "w2")


class Keys:
    """The key files of a cluster in this folder."""

    def __init__(self, folder: Path, names: tuple[str, ...] = NAMES) -> None:
        self.names = names
        self.files = KeyFiles(folder / "cluster.toml")
        self.files.make(names)

    def of(self, name: str) -> Keychain:
        """The keychain of one worker."""
        return Keychain(self.files, name, self.names)

    def rotated(self, name: str) -> None:
        """This worker gets a new pair, on disk."""
        self.files.make(self.names, name)

    def revoked(self, *names: str) -> None:
        """Their lines are taken out of the file."""
        kept = self.files.public.read_text().splitlines()
        kept = [line for line in kept if line.split(" ")[0] not in names]
        self.files.public.write_text("\n".join(kept) + "\n")


def stranger(keys: Keys, name: str) -> Keychain:
    """A keychain whose own pair nobody has heard of, and which is right about everybody else."""
    chain = keys.of(name)
    chain.public, chain.secret = (key.decode() for key in zmq.curve_keypair())
    return chain
