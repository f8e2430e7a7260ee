"""Key files: which key each worker of a cluster has, and whether it may be used.

Beside CLUSTER.toml lie CLUSTER.keys.toml, the public key of every worker, and
CLUSTER.keys/NAME.secret, that worker's secret key, which is needed on its own server only. All are
CURVE keys as Z85 text. A worker whose secret is not there takes the one that systemd hands it as
a credential.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import toml
import zmq
from zmq.utils import z85

from mpls.config import ClusterConfig
from mpls.config.files import LIMIT_BYTES, tables_in
from mpls.errors import BadInput, MplsError, Refused, shown

log = logging.getLogger("mpls")
KEY_CHARACTERS = 40
PREFIX_CHARACTERS = 8
SECRET_LIMIT_BYTES = 1024
CREDENTIAL = "worker.secret"
"""Of the unit's LoadCredential=, a file in $CREDENTIALS_DIRECTORY."""
_HEADING = """\
# The public key of each worker, written by `mpls keys`. The same file belongs on every server.
# A key taken out, or set to "", is let in no more once the workers are sent SIGHUP.

"""
_ACL_USER, _ACL_GROUPS = 0x02, (0x04, 0x08)
"""Of acl(5): a named user, the file's group and a named one."""
REVOKED = ""
"""Stands for the key of a worker that is to be let in no more, and gets no new one either."""


def prefix(key: str) -> str:
    """A key as logs name it."""
    return f"{key[:PREFIX_CHARACTERS]}.."


@dataclass(frozen=True)
class Ring:
    """The public keys of a cluster, by worker. A worker that is not in it has none, or was
    revoked. `strangers` are names in the file that no worker of the cluster has."""

    public: Mapping[str, str]
    strangers: tuple[str, ...] = ()

    def name_of(self, key: str) -> str:
        """Whose key this is; "" if nobody's."""
        return self._names.get(key, "")

    @cached_property
    def _names(self) -> dict[str, str]:
        return {key: name for name, key in self.public.items()}


@dataclass(frozen=True)
class KeyFiles:
    """The key files of one cluster file."""

    cluster: Path

    @property
    def public(self) -> Path:
        """The file of everybody's public keys."""
        return self.cluster.with_name(f"{self.cluster.stem}.keys.toml")

    def secret(self, name: str) -> Path:
        """The file of one worker's secret key."""
        return self.cluster.with_name(f"{self.cluster.stem}.keys") / f"{name}.secret"

    def found_secret(self, name: str) -> Path:
        """The file that this worker's secret key is read from: its own or, where that is not, the
        credential that the service manager gave to this process, if it did."""
        own, given = self.secret(name), os.environ.get("CREDENTIALS_DIRECTORY", "")
        credential = Path(given) / CREDENTIAL
        # Unlike Path.exists, this also takes a folder that may not be looked into for none.
        return credential if given and not os.path.exists(own) and credential.exists() else own

    @property
    def remedy(self) -> str:
        """The command that makes what is missing."""
        return f"`mpls keys {self.cluster}` makes it"

    def read_public(self) -> dict[str, str]:
        """What the file says, whoever the cluster's workers are: name -> key or REVOKED. Raises
        Refused if it is not there and BadInput for whatever is wrong with it."""
        return self._without_doubles(self._public_table())

    def read_secret(self, name: str) -> str:
        """This worker's secret key. Raises Refused if it is not there or others can read it, and
        BadInput if it is no key."""
        path = self.found_secret(name)
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                open_to_others = mode & 0o077 and _others_are_let_in(file.fileno(), mode)
                content = file.read(SECRET_LIMIT_BYTES)
        except FileNotFoundError:
            raise Refused(
                f"{path}: not there; {self.remedy}, or bring it from where it is"
            ) from None
        except OSError as error:
            raise Refused(f"{path}: cannot be read: {error.strerror}") from None
        if open_to_others:
            raise Refused(f"{path}: others can read it (mode {mode:03o}); chmod 600 {path}")
        secret = content.strip().decode("ascii", "replace")
        _check_key(secret, f"{path}: secret key", hide=True)
        return secret

    def ring(self, names: Iterable[str], *, all_of_them: bool = True) -> Ring:
        """The public keys of these workers. Raises Refused, unless told otherwise, for one that
        has none; one that is marked as revoked may be without."""
        keys, names = self.read_public(), dict.fromkeys(names)
        for name in names:
            if all_of_them and name not in keys:
                raise Refused(f"{self.public}: worker {name} has no key; {self.remedy}")
        return Ring(
            {name: keys[name] for name in names if keys.get(name, REVOKED) != REVOKED},
            tuple(name for name in keys if name not in names),
        )

    def own_secret(self, name: str, ring: Ring) -> str:
        """This worker's secret key, which belongs to its public one. Raises Refused if not."""
        if name not in ring.public:
            raise Refused(f"{self.public}: the key of worker {name} was revoked")
        secret = self.read_secret(name)
        if _public_of(secret) != ring.public[name]:
            raise Refused(
                f"{self.found_secret(name)}: is not the secret of {name}'s key in {self.public}; "
                f"put the right file there, or `mpls keys {self.cluster} --rotate {name}`"
            )
        return secret

    def make(self, names: Iterable[str], rotate: str | None = None) -> dict[str, str]:
        """A key pair for each of these workers that has none; `rotate` names one that gets a new
        one. Returns what became of each: new, renewed, kept, revoked, or the secret is elsewhere.
        No key is lost at any moment: a secret is written before its public key."""
        keys = self.read_public() if self.public.exists() else {}
        became = {name: self._make_one(name, keys, name == rotate) for name in names}
        if set(became.values()) & {"new", "renewed"}:
            text = toml.dumps({"public": self._without_doubles(keys)})
            _write(self.public, _HEADING + text, 0o644)
        return became

    def _make_one(self, name: str, keys: dict[str, str], anew: bool) -> str:
        known, secret_is_here = name in keys, self.secret(name).exists()
        if anew or not (known or secret_is_here):
            public, secret = (key.decode() for key in zmq.curve_keypair())
            _write(self.secret(name), f"{secret}\n", 0o600)
            keys[name] = public
            return "renewed" if known else "new"
        if not known:  # an earlier run was cut off between the two files
            keys[name] = _public_of(self.read_secret(name))
            return "new"
        if keys[name] == REVOKED:
            return "revoked"
        if secret_is_here:
            self.own_secret(name, Ring(keys))
        return "kept" if secret_is_here else "kept, secret elsewhere"

    def _public_table(self) -> dict[str, str]:
        try:
            with self.public.open("rb") as file:
                content = file.read(LIMIT_BYTES + 1)
            text = content.decode()
        except FileNotFoundError:
            raise Refused(f"{self.public}: not there; {self.remedy}") from None
        except OSError as error:
            raise BadInput(f"{self.public}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadInput(f"{self.public}: not a text file") from None
        if len(content) > LIMIT_BYTES:
            raise BadInput(f"{self.public}: larger than {LIMIT_BYTES} bytes; are these keys?")
        return self._checked(tables_in(text, str(self.public)))

    def _without_doubles(self, keys: dict[str, str]) -> dict[str, str]:
        owners: dict[str, str] = {}
        for name, key in keys.items():
            if key == REVOKED:
                continue
            _check_key(key, f"{self.public}: key of {shown(name)}")
            if owners.setdefault(key, name) != name:
                both = f"{shown(owners[key])} and {shown(name)}"
                raise BadInput(f"{self.public}: {both} have the same key")
        return keys

    def _checked(self, tables: dict[str, Any]) -> dict[str, str]:
        unknown = [key for key in tables if key != "public"]
        if unknown:
            raise BadInput(f"{self.public}: {shown(unknown[0])}: unknown key; allowed: [public]")
        keys = tables.get("public")
        if not isinstance(keys, dict):
            raise BadInput(f"{self.public}: there is no [public] table; was the file cut off?")
        for name, key in keys.items():
            if not isinstance(key, str):
                raise BadInput(f"{self.public}: {shown(name)} = {shown(key)}: must be text")
        return keys


class Keychain:
    """The keys of one running worker, shared by its threads. Each takes `ring` anew whenever it
    needs a key, and so follows a reload at once."""

    def __init__(self, files: KeyFiles, name: str, names: Iterable[str]) -> None:
        self._files = files
        self._names = list(names)
        self.name = name
        self.ring = files.ring(self._names)
        self.secret = files.own_secret(name, self.ring)
        self.public = self.ring.public[name]
        self.failed_reloads = 0

    def reload(self, names: Iterable[str] = ()) -> None:
        """Read the public keys anew, of these workers if the cluster has others now; a key that is
        gone is let in no more. A file that is wrong changes nothing, but is logged and counted."""
        self._names = list(names) or self._names
        try:
            ring = self._files.ring(self._names, all_of_them=False)
        except MplsError as error:
            self.failed_reloads += 1
            log.error("keys not reloaded, the old ones stay: %s", error)
            return
        before, self.ring = self.ring, ring
        log.info("keys reloaded: %s", ", ".join(_news(before, ring)) or "nothing new")
        if ring.public.get(self.name) != self.public:
            log.warning("this worker's own key was changed: it goes on with the old one to its end")


def take_keys(config: ClusterConfig, name: str, files: KeyFiles | None) -> Keychain | None:
    """What a worker needs to run this cluster; None for plaintext. Raises BadInput or Refused."""
    if config.security() == "plaintext" or not config.speaks("zmq"):
        return None
    if files is None:
        raise Refused("a worker that is to encrypt was started without key files")
    return Keychain(files, name, [worker.name for worker in config.present])


def _news(before: Ring, after: Ring) -> Iterable[str]:
    for name in sorted({*before.public, *after.public}):
        old, new = before.public.get(name), after.public.get(name)
        if old != new:
            yield f"{name} {'added' if old is None else 'changed' if new else 'revoked'}"


def _check_key(key: str, what: str, hide: bool = False) -> None:
    """Raises BadInput that says `what` is no key; a secret is not shown."""
    value = "" if hide else f" = {shown(key)}"
    if len(key) != KEY_CHARACTERS:
        raise BadInput(f"{what}{value}: has {len(key)} characters, a key has {KEY_CHARACTERS}")
    try:
        again = z85.encode(z85.decode(key.encode("ascii")))
    except (ValueError, KeyError, struct.error):
        again = b""
    if again != key.encode():
        raise BadInput(f"{what}{value}: is no Z85 text of a key")


def _others_are_let_in(number: int, mode: int) -> bool:
    """Of a file that seems open to its group. Where it has an access list, as a credential of
    systemd's may have, these bits only say that somebody is on it: that may be this user alone."""
    if mode & 0o007:
        return True
    try:
        access = os.getxattr(number, "system.posix_acl_access")
    except OSError:
        return True
    entries = struct.iter_unpack("<HHI", access[4:])
    return any(
        bits and (tag in _ACL_GROUPS or (tag == _ACL_USER and user != os.geteuid()))
        for tag, bits, user in entries
    )


def _public_of(secret: str) -> str:
    return zmq.curve_public(secret.encode()).decode()


def _write(path: Path, text: str, mode: int) -> None:
    """The whole file or none of it, whatever happens meanwhile."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(path.suffix, f".{path.stem}.", path.parent)
        unfinished = Path(name)
        try:
            with open(number, "w", encoding="ascii") as file:
                os.fchmod(number, mode)
                file.write(text)
                file.flush()
                os.fsync(number)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
