"""The cluster file: what the shipped ones say, what is refused and how, that what is written reads
back equal, and what others ask of a cluster. That each key matters is in `test_config_keys.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.config import ClusterConfig, builtin, changed, dumps, load, loads
from mpls.config.files import LIMIT_BYTES
from mpls.config.tables import DATASETS, MODELS, PARTITIONS
from mpls.core import settings
from mpls.errors import BadInput
from mpls.model import data, partition

CONFIGS = Path(__file__).parent.parent / "configs"
TWO = """
[[workers]]
id = 0
address = "127.0.0.1:5700"
[[workers]]
id = 1
address = "127.0.0.1:5701"
"""
LISTED = '[cluster]\ntopology = "listed"\n'


def complaint(text: str) -> str:
    with pytest.raises(BadInput) as refusal:
        loads(text, "c.toml")
    line = str(refusal.value)
    assert len(line.splitlines()) == 1
    assert refusal.value.exit_code == 2
    return line


# --- the shipped files --------------------------------------------------------------------------


def test_local_toml_spells_out_the_built_in_cluster() -> None:
    assert load(CONFIGS / "local.toml") == builtin()


def test_local_toml_has_every_key() -> None:
    text = (CONFIGS / "local.toml").read_text(encoding="utf-8")
    for table, content in builtin().model_dump(mode="json").items():
        assert f"[{table}]" in text
        for key in content[0] if table == "workers" else content:
            assert f"\n{key} = " in text or f"\n# {key} = " in text, (table, key)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_gives_no_warning(path: Path) -> None:
    config = load(path)
    assert config.warnings == ()
    assert config.cluster.name == path.stem


def test_three_servers_is_an_encrypted_ring_on_documentation_addresses() -> None:
    config = load(CONFIGS / "three-servers.toml")
    assert [worker.address for worker in config.workers] == [
        f"192.0.2.{host}:50051" for host in (11, 12, 13)
    ]
    assert config.links() == ((0, 1), (0, 2), (1, 2))
    assert config.security() == "curve"
    assert config.network.emulate is None


def test_cifar10_toml_trains_on_cifar10() -> None:
    config = load(CONFIGS / "cifar10.toml")
    assert (config.data.dataset, config.model.name) == ("cifar10", "nin")
    assert config.all_loopback()


# --- defaults -----------------------------------------------------------------------------------


def test_what_the_core_decides_on_has_its_defaults_from_the_core() -> None:
    config = loads(TWO, "c.toml")
    assert config.plan_settings() == settings.PlanSettings()
    assert config.pull_settings() == settings.PullSettings()
    assert config.pace_settings() == settings.PaceSettings()


def test_the_learning_rate_is_lower_unless_given() -> None:
    assert loads(TWO, "c.toml").training.lr == 0.01
    assert builtin().training.lr == 0.1


def test_the_words_for_data_are_those_that_the_model_room_knows() -> None:
    assert set(DATASETS) == set(data.DATASETS)
    assert set(PARTITIONS) == set(partition.KINDS)


def test_the_words_for_models_are_those_that_the_model_room_knows() -> None:
    pytest.importorskip("torch")
    from mpls.model import nets

    assert set(MODELS) == set(nets.MODELS)


# --- mistakes in one key; `bad_clusters.py` has the others --------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "value", "allowed"),
    [
        ("cluster", "topology", '"rang"', "must be one of ring, full, star, random, k-regular"),
        ("cluster", "topology", '"k-regular"', "degree 4 needs at least 5 workers, not 2"),
        ("cluster", "seed", "-1", "must be greater than or equal to 0"),
        ("cluster", "seed", "true", "must be a valid integer"),
        ("cluster", "random_prob", "1.5", "must be less than or equal to 1"),
        ("cluster", "degree", "0", "must be greater than or equal to 1"),
        ("cluster", "name", '"../x"', "must be 1 to 64 letters, digits"),
        ("cluster", "out", r'"a\u0007b"', "must be printable text"),
        ("data", "dataset", '"imagenet"', "must be one of digits, mnist, fashion-mnist, cifar10"),
        ("data", "partition", '"random"', "must be one of iid, dirichlet, main-label"),
        ("data", "alpha", "0", "must be greater than 0"),
        ("data", "alpha", "nan", "must be a finite number"),
        ("data", "alpha", "inf", "must be a finite number"),
        ("data", "balanced", '"yes"', "must be a valid boolean"),
        ("data", "min_samples", "0", "must be greater than or equal to 1"),
        ("data", "chi", "1.1", "must be less than or equal to 1"),
        ("data", "partition", '"classes"', ""),
        ("model", "name", '"vgg"', "must be one of simple-mlp, lenet5, nin, resnet18, or your own"),
        ("training", "rounds", "0", "must be greater than or equal to 1"),
        ("training", "rounds", "2.5", "must be a valid integer"),
        ("training", "rounds", '"20"', "must be a valid integer"),
        ("training", "batch_size", "0", "must be greater than or equal to 1"),
        ("training", "lr", "0", "must be greater than 0"),
        ("training", "momentum", "1", "must be less than 1"),
        ("training", "pace", '"fast"', "must be one of overlap, free, sequential"),
        ("training", "device", '"gpu"', "must be cpu, cuda or cuda:N"),
        ("training", "threads", "0", "must be greater than or equal to 1"),
        ("mpls", "strategy", '"best"', "must be one of mpls, mpls-peer, mpls-layer, rand-mpls"),
        ("mpls", "strategy", '"mine:"', "must be one of mpls"),
        ("mpls", "strategy", '"a b:C"', "or your own as package.module:Class"),
        ("mpls", "scheduler", '"lpt"', "must be one of list, eft"),
        ("mpls", "tie", '"name"', "must be one of size, index"),
        ("mpls", "fill", '"on"', "must be one of paper, off, downlink"),
        ("mpls", "progress", '"norm"', "must be one of auto, displacement, path"),
        ("mpls", "tau1", "-0.5", "must be greater than or equal to 0"),
        ("network", "emulate", '"-3MB"', "good ones: 10MB, 10-15MB, 80Mbit, 1.5MiB"),
        ("network", "emulate", '"15-10MB"', "runs backwards; good ones: 10MB"),
        ("network", "emulate", "12", "must be text such as 10MB"),
        ("network", "nic", '"10-15MB"', "must be one rate, not a range"),
        ("network", "prior_bw", '"10-15MB"', "must be one rate, not a range"),
        ("network", "prior_bw", '""', "good ones: 10MB"),
        ("network", "transport", '"udp"', "must be one of zmq, grpc"),
        ("network", "security", '"none"', "must be one of auto, curve, plaintext"),
        ("network", "retries", "-1", "must be greater than or equal to 0"),
        ("network", "round_s", "0.0", "must be greater than 0"),
        ("network", "norm_clip", "-1.0", "must be greater than or equal to 0"),
        ("checkpoint", "keep", "0", "must be greater than or equal to 1"),
        ("metrics", "port", "65536", "must be less than or equal to 65535"),
        ("logging", "level", '"loud"', "must be one of debug, info, warning, error"),
    ],
)
def test_row_58_a_bad_value_is_named_with_what_is_allowed(
    table: str, key: str, value: str, allowed: str
) -> None:
    line = complaint(f"{TWO}[{table}]\n{key} = {value}")
    assert line.startswith(f"c.toml: [{table}] ")
    assert key in line or "classes" in line
    assert allowed in line


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:99999", "must be host:port with a port from 0 to 65535"),
        ("127.0.0.1:-1", "must be host:port with a port from 0 to 65535"),
        ("127.0.0.1:٣", "must be host:port with a port from 0 to 65535"),
        ("127.0.0.1", "must be host:port with a port from 0 to 65535"),
        (":5700", "must be host:port; the host is empty"),
        ("127.0.0.300:5700", "must be host:port with a host name, an IPv4 or an [IPv6] address"),
        ("::1:5700", "must be host:port with a host name, an IPv4 or an [IPv6] address"),
        ("a b:5700", "must be host:port with a host name, an IPv4 or an [IPv6] address"),
        ("-a:5700", "must be host:port with a host name, an IPv4 or an [IPv6] address"),
        ("a..b:5700", "must be host:port with a host name, an IPv4 or an [IPv6] address"),
        ("0.0.0.0:5700", "must be an address that peers can connect to"),
        ("10.0.0.1:0", "port 0, any free one, is for loopback only"),
        ("127.0.0.1:5701", "worker 0 has it already"),
    ],
)
def test_row_58_an_address_that_nobody_can_use_is_refused(address: str, why: str) -> None:
    assert why in complaint(TWO.replace("127.0.0.1:5700", address))


@pytest.mark.parametrize(
    "address",
    ["localhost:1", "[::1]:5700", "192.0.2.11:65535", "gpu-7.lab.example:50051", "mpls_worker_1:9"],
)
def test_names_and_both_kinds_of_ip_are_addresses(address: str) -> None:
    worker = loads(TWO.replace("127.0.0.1:5700", address), "c.toml").workers[0]
    assert f"{worker.host}:{worker.port}" == address


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary, huge = tmp_path / "b.toml", tmp_path / "h.toml"
    binary.write_bytes(b"\x7fELF\x00\xff")
    huge.write_bytes(b"#" * (LIMIT_BYTES + 1))
    (tmp_path / "zero.toml").write_bytes(b"\0" * 8)
    for name, why in [
        ("missing.toml", "no such file or directory"),
        (".", "is a directory"),
        ("b.toml", "not a text file; a cluster file is TOML in UTF-8"),
        ("zero.toml", "not a text file; a cluster file is TOML in UTF-8"),
        ("h.toml", "larger than 16777216 bytes; is this a cluster file?"),
    ]:
        with pytest.raises(BadInput) as refusal:
            load(tmp_path / name)
        assert str(refusal.value) == f"{tmp_path / name}: {why}"


@given(st.binary(max_size=200))
def test_row_58_no_bytes_make_loading_fail_in_any_other_way(content: bytes) -> None:
    with pytest.raises(BadInput, match=r"^c\.toml: "):
        loads(content.decode("utf-8", "replace"), "c.toml")


KEYS = [
    (table, key)
    for table, content in builtin().model_dump().items()
    if table != "workers"
    for key in content
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from([*ClusterConfig.model_fields, "x"]), st.text(max_size=5), JUNK)
def test_no_value_makes_validation_fail_in_any_other_way(table: str, key: str, junk: Any) -> None:
    for keys in ({key: junk, "no such key": 1}, junk):
        if not isinstance(keys, dict) or keys:
            with pytest.raises(BadInput, match=r"^x: "):
                changed(builtin(), {table: keys}, "x")


@given(st.sampled_from(KEYS), JUNK)
def test_row_58_any_value_of_a_key_is_refused_with_one_line_or_reads_back(
    place: tuple[str, str], junk: Any
) -> None:
    table, key = place
    try:
        config = changed(builtin(), {table: {key: junk}}, "x")
    except BadInput as error:
        line = str(error)
    else:
        line = f"x: {loads(dumps(config), 'written') == config}"
    assert line.startswith("x: ")
    assert len(line.splitlines()) == 1
    assert line != "x: False"


# --- writing ------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20).filter(str.isprintable)
CHANGES = st.fixed_dictionaries(
    {
        "cluster": st.fixed_dictionaries(
            {"out": TEXTS, "seed": st.integers(0, 2**63 - 1), "random_prob": st.floats(0, 1)}
        ),
        "training": st.fixed_dictionaries(
            {"lr": st.floats(1e-300, 1e300), "momentum": st.floats(0, 1, exclude_max=True)}
        ),
        "data": st.fixed_dictionaries({"root": TEXTS, "balanced": st.booleans()}),
        "network": st.fixed_dictionaries(
            {
                "emulate": st.sampled_from(["", "10-15MB", "80Mbit", "1.5MiB", "3.7GB"]),
                "nic": st.sampled_from(["", "1Gbit"]),
            }
        ),
    }
)


@given(CHANGES)
def test_what_is_written_reads_back_equal(changes: dict[str, Any]) -> None:
    config = changed(builtin(), changes)
    assert loads(dumps(config), "written") == config


def test_listed_peers_and_classes_read_back_equal() -> None:
    text = f'{LISTED}{TWO}peers = [0]\ntransport = "grpc"\nssh = "me@host"\n'
    config = loads(f'{text}[data]\npartition = "classes"\nclasses = [[0, 1], [2]]', "c.toml")
    assert config.data.classes == ((0, 1), (2,))
    assert loads(dumps(config), "written") == config


def test_a_bad_change_names_where_it_came_from() -> None:
    with pytest.raises(BadInput, match=r"^command line: \[training\] rounds = 0: must be greater"):
        changed(builtin(), {"training": {"rounds": 0}})


# --- what others ask ----------------------------------------------------------------------------


def test_workers_are_in_the_order_of_their_ids_whatever_the_file_says() -> None:
    swapped = (
        TWO.replace("id = 0", "id = x").replace("id = 1", "id = 0").replace("id = x", "id = 1")
    )
    config = loads(swapped, "c.toml")
    assert [worker.name for worker in config.workers] == ["w0", "w1"]
    assert config.workers[0].address == "127.0.0.1:5701"


def test_peers_and_links_follow_topology_and_seed() -> None:
    config = changed(builtin(), {"cluster": {"topology": "star"}})
    assert [config.peers_of(worker) for worker in range(3)] == [(1, 2), (0,), (0,)]
    assert config.links() == ((0, 1), (0, 2))
    five = TWO + "".join(f'[[workers]]\nid = {i}\naddress = "h:{i}"\n' for i in range(2, 5))
    rings = {loads(f"[cluster]\nseed = {seed}\n{five}", "c").links() for seed in range(9)}
    assert len(rings) > 1


def test_listed_peers_are_taken_as_they_are_and_links_join_both_ends() -> None:
    config = loads(f"{LISTED}{TWO}peers = [0]", "c.toml")
    assert (config.peers_of(0), config.peers_of(1)) == ((), (0,))
    assert config.links() == ((0, 1),)
    assert config.warnings == ("worker 1 pulls from worker 0, but not the other way round",)


def test_a_worker_that_does_not_exist_is_refused_with_the_ids_there_are() -> None:
    assert builtin().worker(2).name == "w2"
    for worker_id in (-1, 3):
        with pytest.raises(BadInput, match=f"no worker {worker_id}; ids are 0 to 2"):
            builtin().worker(worker_id)


@pytest.mark.parametrize(
    ("address", "asked", "security"),
    [
        ("127.0.0.1", "auto", "plaintext"),
        ("127.8.8.8", "auto", "plaintext"),
        ("localhost", "auto", "plaintext"),
        ("[::1]", "auto", "plaintext"),
        ("10.0.0.7", "auto", "curve"),
        ("localhost.example", "auto", "curve"),
        ("127.0.0.1", "curve", "curve"),
        ("10.0.0.7", "plaintext", "plaintext"),
    ],
)
def test_plaintext_by_itself_is_for_loopback_only(address: str, asked: str, security: str) -> None:
    text = TWO.replace("127.0.0.1:5700", f"{address}:5700")
    config = loads(f'{text}[network]\nsecurity = "{asked}"', "c.toml")
    assert config.security() == security


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (TWO.replace("127.0.0.1:5700", "10.96.0.255:5700"), "broadcast address"),
        (TWO.replace("127.0.0.1:5700", "10.96.0.0:5700"), "network's own"),
        (LISTED + TWO, "disconnected"),
        (TWO.replace("127.0.0.1:5700", "10.0.0.1:5700"), 'emulate = "10-15MB" slows real links'),
        (
            TWO.replace("127.0.0.1:5700", "h:1") + '[network]\nsecurity = "plaintext"',
            "can read the weights",
        ),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(text: str, warning: str) -> None:
    assert any(warning in line for line in loads(text, "c.toml").warnings)


def test_the_hash_does_not_depend_on_where_workers_listen() -> None:
    base = loads(TWO, "c.toml").config_hash()
    assert loads(TWO.replace("5701", "5799"), "c.toml").config_hash() == base
    assert loads(f'{TWO}grpc_port = 9\nssh = "me@there"', "c.toml").config_hash() == base
    assert loads(f"{TWO}speed = 2.0", "c.toml").config_hash() != base


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from mpls.config import builtin; print(builtin().config_hash(), end='')"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == builtin().config_hash()


def test_a_configuration_is_immutable_and_a_change_is_a_new_one() -> None:
    config = builtin()
    with pytest.raises(ValueError, match="frozen"):
        config.cluster.seed = 2  # type: ignore[misc]
    assert changed(config, {"cluster": {"topology": "star"}}).links() != config.links()


def test_importing_the_configuration_needs_no_torch() -> None:
    code = "import sys, mpls.config; assert not {'torch', 'networkx', 'zmq'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
