"""Who may speak gRPC with whom: certificates name workers, as CURVE keys do elsewhere.

A certificate is a worker's if the worker's name is its common name or one of its alternative names.
A puller accepts no other certificate than the peer's; a server that asks for certificates (mutual
TLS, the default) serves nobody under another name than his own. Without certificates there is only
plaintext, which `mpls.preflight` allows on loopback, or on request.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from mpls.errors import BadInput, Refused

Options = Sequence[tuple[str, int | str]]
_NAMES = ("x509_common_name", "x509_subject_alternative_name")


@dataclass(frozen=True)
class Certificates:
    """The contents of one worker's files, in PEM. `authority` signed everybody's; `mutual` says
    that who connects has to show one, too."""

    authority: bytes
    chain: bytes
    key: bytes
    mutual: bool

    @classmethod
    def read(cls, authority: str, chain: str, key: str, mutual: bool) -> Certificates:
        """From their files. Raises BadInput if one cannot be read, and Refused if the key can be by
        others."""
        read = {
            "grpc_ca": _content("grpc_ca", authority),
            "grpc_cert": _content("grpc_cert", chain),
            "grpc_key": _content("grpc_key", key, secret=True),
        }
        return cls(read["grpc_ca"], read["grpc_cert"], read["grpc_key"], mutual)

    def server_credentials(self) -> Any:
        """What a port is opened with."""
        authority = self.authority if self.mutual else None
        pair = [(self.key, self.chain)]
        return grpc.ssl_server_credentials(pair, authority, require_client_auth=self.mutual)

    def channel(self, target: str, peer: str, options: Options) -> Any:
        """To the peer of this name, and to nobody else."""
        credentials = grpc.ssl_channel_credentials(self.authority, self.key, self.chain)
        named = (*options, ("grpc.ssl_target_name_override", peer))
        return grpc.secure_channel(target, credentials, named)


def names_in(shown: Mapping[str, Sequence[bytes]]) -> set[str]:
    """Those that a caller's certificate has, of gRPC's `auth_context`."""
    return {name.decode("utf-8", "replace") for key in _NAMES for name in shown.get(key, ())}


def _content(key: str, path: str, secret: bool = False) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(2**20)
    except OSError as error:
        raise BadInput(f"[network] {key}: {path} cannot be read: {error.strerror}") from None
    if secret and mode & 0o077:
        raise Refused(f"{path}: others can read it (mode {mode:03o}); chmod 600 {path}")
    if b"-----BEGIN " not in content:
        raise BadInput(f"[network] {key}: {path} is no PEM file")
    return content
