"""What `mpls deploy` decides before it calls any server, and what it makes of their answers."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpls.cli import main
from mpls.config import ClusterConfig, builtin, changed, dumps
from mpls.deploy import examine, layout, lives, material
from mpls.deploy.examine import FAIL, OK, WARN
from mpls.deploy.heard import heard
from mpls.deploy.inventory import Server, servers
from mpls.deploy.wheelhouse import MANIFEST, Wheelhouse, look_at, read
from mpls.errors import BadInput, Refused

ROOT = Path(__file__).parents[2]
Said = Callable[..., tuple[int, str]]


def cluster(*targets: str, **tables: dict[str, Any]) -> ClusterConfig:
    workers = [
        {"id": number, "address": f"192.0.2.{11 + number}:50051", "ssh": target}
        for number, target in enumerate(targets)
    ]
    return changed(builtin(), {"workers": workers, "network": {"emulate": ""}, **tables})


def in_file(folder: Path, config: ClusterConfig) -> Path:
    path = folder / "cluster.toml"
    path.write_text(dumps(config))
    return path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code and stderr of a command."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        try:
            code = main([str(it) for it in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    return run


# --- which servers there are ---


def test_each_server_is_named_once_with_all_its_workers() -> None:
    found = servers(cluster("mpls@a.example", "b.example:2222", "mpls@a.example"))
    assert [(it.name, it.user, it.port, it.who) for it in found] == [
        ("a.example", "mpls", None, "w0 w2"),
        ("b.example:2222", None, 2222, "w1"),
    ]


def test_an_ipv6_address_may_have_a_port() -> None:
    (server,) = servers(cluster("root@[2001:db8::1]:22"))
    assert (server.host, server.port, server.user) == ("2001:db8::1", 22, "root")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("", 'ssh = "user@host"'),
        ("-oProxyCommand=x", "must be host"),
        ("a b", "must be host"),
        ("mpls@host;reboot", "must be host"),
        ("mpls@host:70000", "from 1 to 65535"),
        ("$(reboot)@host", "must be host"),
    ],
)
def test_what_ssh_could_not_reach_is_refused(target: str, why: str) -> None:
    with pytest.raises(BadInput, match="id 1: ssh") as refused:
        servers(cluster("mpls@ok", target))
    assert why in str(refused.value)


def test_one_host_has_one_user() -> None:
    with pytest.raises(BadInput, match="another user in w0's table"):
        servers(cluster("a@host", "b@host"))


# --- wheelhouses ---


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    for name in ("mpls_dfl-0.1.0-py3-none-any.whl", "Some_Thing-2.0-py3-none-any.whl"):
        (tmp_path / name).write_bytes(name.encode())
    made = look_at(tmp_path, "3.11", "x86_64")
    made.save()
    return made


def test_a_wheelhouse_is_read_as_it_was_saved(house: Wheelhouse) -> None:
    assert read(house.folder) == house
    assert house.release.startswith("0.1.0-")
    assert {wheel.name for wheel in house.wheels} == {"mpls-dfl", "some-thing"}


def test_only_our_own_wheel_makes_another_release_of_the_same_libraries(house: Wheelhouse) -> None:
    house.path(house.ours).write_bytes(b"changed")
    newer = look_at(house.folder, "3.11", "x86_64")
    assert newer.release != house.release
    assert newer.libraries == house.libraries


def test_a_wheel_that_was_changed_is_found(house: Wheelhouse) -> None:
    house.path(house.wheels[0]).write_bytes(b"changed")
    with pytest.raises(BadInput, match="is not the file that"):
        read(house.folder)


def test_a_wheel_that_is_missing_is_found(house: Wheelhouse) -> None:
    house.path(house.wheels[1]).unlink()
    with pytest.raises(BadInput, match="not there, but in"):
        read(house.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"release": "0.1.0-000000000000"},
        {"python": "2.7"},
        {"wheels": []},
        {"wheels": 3},
        {"machine": "x; reboot"},
    ],
)
def test_a_manifest_that_is_none_is_refused(house: Wheelhouse, change: dict[str, Any]) -> None:
    path = house.folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match="not the manifest of a wheelhouse"):
        read(house.folder)


def test_a_wheel_outside_the_wheelhouse_is_refused(house: Wheelhouse) -> None:
    path = house.folder / MANIFEST
    path.write_text(path.read_text().replace('"mpls_dfl-0.1.0', '"../mpls_dfl-0.1.0'))
    with pytest.raises(BadInput, match="not the manifest"):
        read(house.folder)


# --- what a server's answers mean ---


def answers(house: Wheelhouse, **other: Any) -> dict[str, Any]:
    """Of a server that is fit."""
    return {
        "python": "3.11.2",
        "venv": True,
        "machine": "x86_64",
        "systemd": 252,
        "free_bytes": {"/opt": 10**11, "/var/lib": 10**11},
        "ports": {"0": "free"},
        "current": "",
        "releases": [],
        "units": {},
        **other,
    }


@pytest.mark.parametrize(
    ("other", "level", "what"),
    [
        ({}, OK, "Python"),
        ({"python": "3.10.9"}, FAIL, "Python"),
        ({"venv": False}, FAIL, "Python"),
        ({"machine": "aarch64"}, FAIL, "machine"),
        ({"systemd": 0}, FAIL, "systemd"),
        ({"systemd": 241}, FAIL, "systemd"),
        ({"free_bytes": {"/opt": 10**11, "/var/lib": 10**6}}, FAIL, "disk"),
        ({"free_bytes": {"/opt": 10, "/var/lib": 10**11}}, FAIL, "disk"),
        ({"ports": {"0": "ours"}}, OK, "port of w0"),
        ({"ports": {"0": "taken"}}, FAIL, "port of w0"),
        ({"ports": {"0": "cannot assign requested address"}}, FAIL, "port of w0"),
    ],
)
def test_what_is_not_fit_is_found(
    house: Wheelhouse, other: dict[str, Any], level: str, what: str
) -> None:
    (server,) = servers(cluster("mpls@a"))
    found = {it.what: it for it in examine.judge(server, answers(house, **other), house, 0.0)}
    assert found[what].level == level
    assert found[what].remedy or level == OK


@pytest.mark.parametrize(("offset_s", "level"), [(0.5, OK), (-5.0, WARN), (61.0, FAIL)])
def test_clocks_may_differ_a_little(house: Wheelhouse, offset_s: float, level: str) -> None:
    (server,) = servers(cluster("mpls@a"))
    found = {it.what: it for it in examine.judge(server, answers(house), house, offset_s)}
    assert found["clock"].level == level


def test_an_answer_between_two_readings_of_our_clock_is_no_offset() -> None:
    assert examine.offset_s(10.0, 10.5, 11.0) == 0.0
    assert examine.offset_s(10.0, 9.0, 11.0) == -1.0
    assert examine.offset_s(10.0, 14.0, 11.0) == 3.0


def probed(server: Server) -> dict[str, Any]:
    """What the probe says of this machine."""
    command = [sys.executable, "-", *shlex.split(examine.question(server))]
    done = subprocess.run(
        command, input=examine.probe(), capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_probe_tells_a_free_port_from_one_that_is_taken() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as gone,
    ):
        taken, free = other.getsockname()[1], gone.getsockname()[1]
        gone.close()
        config = changed(
            builtin(),
            {
                "workers": [
                    {"id": 0, "address": f"127.0.0.1:{taken}", "ssh": "here"},
                    {"id": 1, "address": f"[::1]:{free}", "ssh": "here"},
                ]
            },
        )
        (server,) = servers(config)
        found = probed(server)
    assert found["ports"] == {"0": "taken", "1": "free"}
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


# --- what is brought ---


def test_a_cluster_for_loopback_is_not_deployed(tmp_path: Path) -> None:
    config = changed(builtin(), {"workers": [{"id": 0, "address": "127.0.0.1:5", "ssh": "a"}]})
    with pytest.raises(BadInput, match="cannot reach it"):
        material.take(in_file(tmp_path, config))


def test_a_cluster_without_keys_is_refused_before_any_server_is_called(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="mpls keys"):
        material.take(in_file(tmp_path, cluster("a", "b")))


@pytest.fixture
def taken(tmp_path: Path) -> material.Material:
    file = in_file(tmp_path, cluster("a", "b", "a"))
    assert main(["keys", str(file)]) == 0
    return material.take(file)


def test_no_file_for_everybody_has_a_secret_in_it(taken: material.Material) -> None:
    for server in taken.servers:
        for text in taken.files(server).values():
            assert not any(secret.strip() in text for secret in taken.secrets.values())


def test_a_server_gets_the_drop_ins_of_its_own_workers(taken: material.Material) -> None:
    first, second = taken.servers
    mine = [str(layout.drop_in(number)) for number in (0, 1, 2)]
    assert [path in taken.files(first) for path in mine] == [True, False, True]
    assert [path in taken.files(second) for path in mine] == [False, True, False]


def test_a_worker_is_started_anew_for_whatever_changed(
    taken: material.Material, tmp_path: Path
) -> None:
    server = taken.servers[0]
    stamp = taken.stamp(server, 0, "1-a")
    assert stamp == material.take(taken.file).stamp(server, 0, "1-a")
    assert stamp != taken.stamp(server, 0, "1-b")
    assert stamp != taken.stamp(server, 2, "1-a")
    assert main(["keys", str(taken.file), "--rotate", "w1"]) == 0
    assert stamp != material.take(taken.file).stamp(server, 0, "1-a"), "a peer's key is another"


# --- what ssh is told ---


@pytest.mark.parametrize(
    ("lines", "strict", "asks_agent"),
    [
        ("", "yes", True),
        ("StrictHostKeyChecking ask", "yes", True),
        ("StrictHostKeyChecking no", "no", True),
        ("StrictHostKeyChecking accept-new", "accept-new", True),
        ("IdentitiesOnly yes", "yes", False),
    ],
)
def test_a_host_key_must_be_known_unless_ssh_is_configured_otherwise(
    tmp_path: Path, lines: str, strict: str, asks_agent: bool
) -> None:
    pytest.importorskip("pyinfra")
    from mpls.deploy.session import ssh_data

    config = tmp_path / "ssh_config"
    config.write_text(f"Host a.example\n    {lines}\n")
    (server,) = servers(cluster("mpls@a.example:2222"))
    data = ssh_data(server, config)
    assert data["ssh_strict_host_key_checking"] == strict
    assert data.get("ssh_allow_agent", True) is asks_agent
    assert (data["ssh_user"], data["ssh_port"]) == ("mpls", 2222)


# --- who talks ---


@pytest.mark.parametrize(
    ("welcome_s", "began_s", "offset_s", "ended", "talks"),
    [
        (150.0, 100.0, 0.0, False, True),
        (None, 100.0, 0.0, False, False),
        (90.0, 100.0, 0.0, False, False),  # of the peer's life before this one
        (90.0, 100.0, -15.0, False, True),  # on a clock that is behind
        (None, 100.0, 0.0, True, True),  # it is done, and gone
    ],
)
def test_two_workers_talk_when_one_was_welcomed_in_the_others_present_life(
    welcome_s: float | None, began_s: float, offset_s: float, ended: bool, talks: bool
) -> None:
    pytest.importorskip("pyinfra")
    from mpls.deploy.talks import Heard, talked

    welcomes = {} if welcome_s is None else {"w1": welcome_s}
    found = {0: Heard(50.0, welcomes, False), 1: Heard(began_s, {}, ended)}
    assert talked(cluster("a", "b"), found, {0: offset_s, 1: 0.0}, 0, 1) is talks


# --- going back ---


def had(current: str, *history: str) -> dict[str, Any]:
    return {"current": current, "history": list(history), "releases": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("servers", "target"),
    [
        ([had("b", "a", "b"), had("b", "a", "b")], "a"),
        ([had("c", "a", "b", "c"), had("c", "a", "b", "c")], "b"),
        # A deployment of b was cut off after the first server.
        ([had("b", "a", "b"), had("a", "a")], "a"),
        ([had("b", "c", "b", "a", "b"), had("b", "c", "b", "a", "b")], "a"),
        # A way back to b was cut off: it ends there, and not further back.
        ([had("b", "a", "b"), had("c", "a", "b", "c")], "b"),
    ],
)
def test_all_servers_go_back_to_the_same_release(
    servers: list[dict[str, Any]], target: str
) -> None:
    pytest.importorskip("pyinfra")
    from mpls.deploy.deployment import target_of

    assert target_of({str(number): it for number, it in enumerate(servers)}) == target


@pytest.mark.parametrize("servers", [[had("a", "a")], [had("", *[])], [had("b", "x", "b")]])
def test_there_may_be_nothing_to_go_back_to(servers: list[dict[str, Any]]) -> None:
    pytest.importorskip("pyinfra")
    from mpls.deploy.deployment import target_of

    with pytest.raises(Refused, match="no release before this one"):
        target_of({str(number): it for number, it in enumerate(servers)})


# --- what workers leave on their servers ---


def write_trace(folder: Path, began_s: float, *records: dict[str, Any], **header: Any) -> None:
    folder.mkdir(parents=True)
    first = {"t": 0.0, "kind": "header", "started_unix_s": began_s, **header}
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in (first, *records)]
    (folder / "w0.trace.jsonl").write_text("".join(lines))


def welcome(t: float, peer: str) -> dict[str, Any]:
    return {
        "t": t,
        "kind": "event",
        "event": {"is": "Replied", "reply": {"is": "Welcome", "name": peer}},
    }


def test_a_trace_says_who_welcomed_whom_last(tmp_path: Path) -> None:
    write_trace(
        tmp_path / "runs" / "a", 100.0, welcome(1.5, "w1"), welcome(2.0, "w2"), welcome(9.0, "w1")
    )
    (tmp_path / "runs" / "latest").symlink_to("a")
    assert heard(tmp_path, "w0") == {"began_s": 100.0, "welcomes": {"w1": 109.0, "w2": 102.0}}
    assert heard(tmp_path, "w7") == {}


def test_a_run_is_all_lives_since_it_last_began_from_nothing(tmp_path: Path) -> None:
    write_trace(tmp_path / "runs" / "older", 10.0)
    write_trace(tmp_path / "runs" / "b", 20.0)
    write_trace(tmp_path / "runs" / "a", 30.0, resumed={"round": 3})
    write_trace(tmp_path / "runs" / "c", 40.0, resumed={"round": 5})
    (tmp_path / "runs" / "nothing").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("c")
    assert lives.lives(tmp_path, "w0") == ["b", "a", "c"]


# --- the command ---


def test_help_imports_neither_torch_nor_pyinfra() -> None:
    program = (
        "import sys; from mpls.cli import main\n"
        "try: main(['deploy', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'pyinfra', 'paramiko', 'gevent'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nowhere.toml",), "nowhere.toml: no such file"),
        (("status", "nowhere.toml"), "nowhere.toml: no such file"),
        (("fetch", "nowhere.toml"), "Missing option '-o'"),
        (("build", "--python", "2.7"), "must be 3.10, 3.11, 3.12 or 3.13"),
        (("build", "--source", "/"), "no pyproject.toml"),
        (("status",), "Missing argument 'CLUSTER'"),
        (("--ssh-config", "nowhere", "x.toml"), "does not exist"),
    ],
)
def test_bad_arguments_get_a_line(
    said: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = said("deploy", *arguments)
    assert code == 2
    assert why in text


def test_a_wheelhouse_that_is_not_there_is_named_with_the_command_that_makes_it(
    said: Said, taken: material.Material
) -> None:
    code, text = said("deploy", taken.file, "--wheelhouse", taken.file.parent / "none")
    assert code == 2
    assert "`mpls deploy build" in text


def test_a_folder_with_something_in_it_is_not_fetched_into(said: Said, tmp_path: Path) -> None:
    file = in_file(tmp_path, cluster("a"))
    code, text = said("deploy", "fetch", file, "-o", tmp_path)
    assert code == 2
    assert "is not empty" in text
