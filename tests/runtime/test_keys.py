"""Key files: what is made, what is refused and why, and what a reload changes."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpls.config import builtin, changed
from mpls.errors import BadInput, MplsError, Refused
from mpls.runtime.keys import CREDENTIAL, Keychain, KeyFiles, take_keys
from tests.runtime.keyrings import NAMES, Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


# --- making them ---


def test_a_pair_is_made_for_each_worker_and_each_secret_is_for_its_owner_only(keys: Keys) -> None:
    public = keys.files.read_public()
    assert list(public) == list(NAMES)
    for name in NAMES:
        path = keys.files.secret(name)
        assert path.stat().st_mode & 0o777 == 0o600
        assert zmq.curve_public(path.read_text().strip().encode()).decode() == public[name]
    assert keys.files.secret("w0").parent.stat().st_mode & 0o777 == 0o700
    assert len({*public.values()}) == 3


def test_they_lie_beside_the_cluster_file_by_its_name() -> None:
    files = KeyFiles(Path("here/three.toml"))
    assert files.public == Path("here/three.keys.toml")
    assert files.secret("w0") == Path("here/three.keys/w0.secret")


def test_a_second_run_changes_no_file(keys: Keys) -> None:
    before = snapshot(keys)
    assert keys.files.make(NAMES) == dict.fromkeys(NAMES, "kept")
    assert snapshot(keys) == before


def test_a_worker_that_came_later_gets_a_pair_and_the_others_keep_theirs(keys: Keys) -> None:
    before = keys.files.read_public()
    assert keys.files.make([*NAMES, "w3"])["w3"] == "new"
    after = keys.files.read_public()
    assert {name: after[name] for name in NAMES} == before
    assert keys.files.ring(NAMES).strangers == ("w3",)


def test_only_the_named_worker_s_pair_is_renewed(keys: Keys) -> None:
    before = snapshot(keys)
    assert keys.files.make(NAMES, "w1") == {"w0": "kept", "w1": "renewed", "w2": "kept"}
    differing = {path.name for path, text in snapshot(keys).items() if before[path] != text}
    assert differing == {"cluster.keys.toml", "w1.secret"}
    assert keys.of("w1").public == keys.files.read_public()["w1"]


def test_a_secret_may_be_on_another_server(keys: Keys) -> None:
    keys.files.secret("w2").unlink()
    assert keys.files.make(NAMES)["w2"] == "kept, secret elsewhere"
    assert not keys.files.secret("w2").exists()


def test_a_run_that_was_cut_off_before_the_public_keys_is_completed(keys: Keys) -> None:
    before = keys.files.read_public()
    keys.files.public.unlink()
    assert keys.files.make(NAMES) == dict.fromkeys(NAMES, "new")
    assert keys.files.read_public() == before


def test_a_worker_s_key_under_another_name_is_not_written_twice(keys: Keys) -> None:
    """Its line was renamed, its secret's file was not."""
    keys.files.public.write_text(keys.files.public.read_text().replace("w2 =", "w9 ="))
    before = snapshot(keys)
    with pytest.raises(BadInput, match='"w9" and "w2" have the same key'):
        keys.files.make(NAMES)
    assert snapshot(keys) == before


def test_a_revoked_worker_gets_a_new_pair_only_when_it_is_named(keys: Keys) -> None:
    set_key(keys, "w1", "")
    assert keys.files.make(NAMES)["w1"] == "revoked"
    assert keys.files.read_public()["w1"] == ""
    assert keys.files.make(NAMES, "w1")["w1"] == "renewed"
    assert keys.files.ring(NAMES).public.keys() == {*NAMES}


def test_what_cannot_be_written_is_said_and_leaves_nothing_behind(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(keys)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"w1\.secret: cannot be written: No space left"):
        keys.files.make(NAMES, "w1")
    assert snapshot(keys) == before


def snapshot(keys: Keys) -> dict[Path, str]:
    """Every file and its content."""
    folder = keys.files.cluster.parent
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


def set_key(keys: Keys, name: str, key: str) -> None:
    public = keys.files.public
    old = keys.files.read_public()[name]
    public.write_text(public.read_text().replace(f'"{old}"', f'"{key}"'))


# --- row 35: what is refused ---


def readable_by_others(keys: Keys) -> None:
    keys.files.secret("w0").chmod(0o640)


def truncated(keys: Keys) -> None:
    keys.files.secret("w0").write_text(keys.files.secret("w0").read_text()[:20])


def empty(keys: Keys) -> None:
    keys.files.secret("w0").write_text("")


def no_key_at_all(keys: Keys) -> None:
    keys.files.secret("w0").write_text("~" * 40)


def beyond_32_bits(keys: Keys) -> None:
    keys.files.secret("w0").write_text("#" * 40)


def binary(keys: Keys) -> None:
    keys.files.secret("w0").write_bytes(bytes(range(216, 256)))


def missing(keys: Keys) -> None:
    keys.files.secret("w0").unlink()


def a_folder(keys: Keys) -> None:
    keys.files.secret("w0").unlink()
    keys.files.secret("w0").mkdir()


def swapped(keys: Keys) -> None:
    one, other = keys.files.secret("w0"), keys.files.secret("w1")
    one_text, other_text = one.read_text(), other.read_text()
    one.write_text(other_text)
    other.write_text(one_text)


def no_public_keys(keys: Keys) -> None:
    keys.files.public.unlink()


def two_with_one_key(keys: Keys) -> None:
    set_key(keys, "w1", keys.files.read_public()["w0"])


def a_worker_without(keys: Keys) -> None:
    keys.revoked("w2")


def itself_revoked(keys: Keys) -> None:
    set_key(keys, "w0", "")


def a_public_key_cut_short(keys: Keys) -> None:
    set_key(keys, "w1", "abc")


def an_unknown_key(keys: Keys) -> None:
    keys.files.public.write_text("secure = true\n" + keys.files.public.read_text())


def a_number(keys: Keys) -> None:
    keys.files.public.write_text("[public]\nw0 = 7\n")


def no_table(keys: Keys) -> None:
    keys.files.public.write_text("")


def no_toml(keys: Keys) -> None:
    keys.files.public.write_text("[public]\nw0 = \n")


def no_text(keys: Keys) -> None:
    keys.files.public.write_bytes(b"\xff\xfe\x00")


SECRET, PUBLIC = "cluster.keys/w0.secret", "cluster.keys.toml"
BAD: list[tuple[Callable[[Keys], None], type[MplsError], str, str]] = [
    (readable_by_others, Refused, SECRET, "others can read it (mode 640); chmod 600 "),
    (truncated, BadInput, SECRET, "secret key: has 20 characters, a key has 40"),
    (empty, BadInput, SECRET, "secret key: has 0 characters, a key has 40"),
    (no_key_at_all, BadInput, SECRET, "secret key: is no Z85 text of a key"),
    (beyond_32_bits, BadInput, SECRET, "secret key: is no Z85 text of a key"),
    (binary, BadInput, SECRET, "secret key: is no Z85 text of a key"),
    (missing, Refused, SECRET, "not there; `mpls keys "),
    (a_folder, Refused, SECRET, "cannot be read: Is a directory"),
    (swapped, Refused, SECRET, "is not the secret of w0's key in "),
    (no_public_keys, Refused, PUBLIC, "not there; `mpls keys "),
    (two_with_one_key, BadInput, PUBLIC, '"w0" and "w1" have the same key'),
    (a_worker_without, Refused, PUBLIC, "worker w2 has no key; `mpls keys "),
    (itself_revoked, Refused, PUBLIC, "the key of worker w0 was revoked"),
    (a_public_key_cut_short, BadInput, PUBLIC, 'key of "w1" = "abc": has 3 characters, a key'),
    (an_unknown_key, BadInput, PUBLIC, '"secure": unknown key; allowed: [public]'),
    (a_number, BadInput, PUBLIC, '"w0" = 7: must be text'),
    (no_table, BadInput, PUBLIC, "there is no [public] table; was the file cut off?"),
    (no_toml, BadInput, PUBLIC, "line 2: not TOML"),
    (no_text, BadInput, PUBLIC, "not a text file"),
]


@pytest.mark.parametrize(
    ("spoil", "kind", "file", "why"), BAD, ids=[spoil.__name__ for spoil, *_ in BAD]
)
def test_row_35_key_files_that_cannot_be_used_are_refused_and_it_is_said_why(
    keys: Keys, spoil: Callable[[Keys], None], kind: type[MplsError], file: str, why: str
) -> None:
    secret = keys.files.secret("w0").read_text().strip()
    spoil(keys)
    with pytest.raises(kind) as refusal:
        keys.of("w0")
    said = str(refusal.value)
    assert said.startswith(f"{keys.files.cluster.parent / file}: {why}")
    assert len(said.splitlines()) == 1
    assert secret not in said


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_row_35_no_content_of_a_key_file_is_an_error_without_a_name(
    keys: Keys, content: bytes
) -> None:
    for path in (keys.files.public, keys.files.secret("w0")):
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises((BadInput, Refused), match=r"cluster\.keys"):
            keys.of("w0")
        path.write_bytes(before)


def test_a_file_that_is_too_large_is_refused_as_a_whole(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first part might be read as the whole, and whoever is beyond as revoked."""
    monkeypatch.setattr("mpls.runtime.keys.LIMIT_BYTES", len(keys.files.public.read_bytes()))
    assert keys.of("w0").ring.public.keys() == {*NAMES}
    with keys.files.public.open("a") as file:
        file.write("\n")
    with pytest.raises(BadInput, match=r"keys\.toml: larger than \d+ bytes"):
        keys.of("w0")


# --- a running worker's ---


def test_a_reload_takes_in_what_was_taken_out_changed_and_added(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mpls")
    complete = keys.files.public.read_text()
    chain = keys.of("w0")
    keys.revoked("w1")
    keys.files.make(["w0", "w2"], "w2")
    chain.reload()
    assert chain.ring.public.keys() == {"w0", "w2"}
    keys.files.public.write_text(complete)
    chain.reload()
    chain.reload()
    assert chain.ring.public.keys() == {"w0", "w1", "w2"}
    assert caplog.messages == [
        "keys reloaded: w1 revoked, w2 changed",
        "keys reloaded: w1 added, w2 changed",
        "keys reloaded: nothing new",
    ]
    assert chain.failed_reloads == 0


@pytest.mark.parametrize("spoil", [no_table, no_toml, no_public_keys, two_with_one_key, a_number])
def test_row_36_a_file_that_is_wrong_on_reload_changes_nothing_and_is_counted(
    keys: Keys, caplog: pytest.LogCaptureFixture, spoil: Callable[[Keys], None]
) -> None:
    chain = keys.of("w0")
    before = chain.ring
    spoil(keys)
    chain.reload()
    assert chain.ring is before
    assert chain.failed_reloads == 1
    (said,) = caplog.messages
    assert said.startswith("keys not reloaded, the old ones stay: ")


def test_a_worker_whose_own_key_was_changed_goes_on_with_the_one_it_has(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    chain = keys.of("w0")
    pair = chain.public, chain.secret
    keys.rotated("w0")
    chain.reload()
    assert (chain.public, chain.secret) == pair
    assert "own key was changed" in caplog.text


def test_a_worker_that_is_to_encrypt_never_starts_without_keys(keys: Keys) -> None:
    curve = changed(builtin(), {"network": {"security": "curve"}})
    with pytest.raises(Refused, match="without key files"):
        take_keys(curve, "w0", None)
    assert isinstance(take_keys(curve, "w0", keys.files), Keychain)
    assert take_keys(builtin(), "w0", keys.files) is None


# --- credentials ---


@pytest.fixture
def credential(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """w0's secret where systemd leaves it, and no more beside the cluster file."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    path = folder / CREDENTIAL
    keys.files.secret("w0").rename(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return path


def list_readers(path: Path, *entries: tuple[int, int, int]) -> None:
    """Give it an access list as in acl(5): tag, bits and user, whose mask shows as the group."""
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)


def acl(user: int, group_bits: int = 0) -> list[tuple[int, int, int]]:
    """Owner rw, this user r, the file's group, the mask, nobody else."""
    none = 0xFFFFFFFF
    return [(1, 6, none), (2, 4, user), (4, group_bits, none), (16, 4, none), (32, 0, none)]


def test_a_worker_takes_its_secret_from_systemd_where_it_has_no_file(
    keys: Keys, credential: Path
) -> None:
    assert keys.of("w0").secret == credential.read_text().strip()
    keys.files.secret("w0").write_text("its own file comes first")
    keys.files.secret("w0").chmod(0o600)
    with pytest.raises(BadInput, match=r"w0\.secret: secret key: has 24 characters"):
        keys.of("w0")


def test_another_s_secret_as_a_credential_is_refused_by_its_name(
    keys: Keys, credential: Path
) -> None:
    keys.files.secret("w1").unlink()
    with pytest.raises(Refused, match=rf"{CREDENTIAL}: is not the secret of w1's key"):
        keys.of("w1")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_credential_that_others_can_read_is_refused(
    keys: Keys, credential: Path, mode: int
) -> None:
    credential.chmod(mode)
    with pytest.raises(Refused, match=rf"{CREDENTIAL}: others can read it \(mode {mode:o}\)"):
        keys.of("w0")


def test_an_access_list_is_fine_when_only_this_user_is_on_it(keys: Keys, credential: Path) -> None:
    list_readers(credential, *acl(os.geteuid()))
    assert credential.stat().st_mode & 0o777 == 0o640
    assert keys.of("w0").secret
    for others in (acl(os.geteuid() + 1), acl(os.geteuid(), group_bits=4)):
        list_readers(credential, *others)
        with pytest.raises(Refused, match="others can read it"):
            keys.of("w0")


def test_without_its_credential_a_worker_hears_of_its_own_file(
    keys: Keys, credential: Path
) -> None:
    credential.unlink()
    with pytest.raises(Refused, match=r"cluster\.keys/w0\.secret: not there"):
        keys.of("w0")
