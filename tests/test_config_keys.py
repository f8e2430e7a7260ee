"""A test for every key of the cluster file: it reads back, it changes nothing else, and it reaches
the settings that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpls.config import ClusterConfig, builtin, changed, dumps, loads
from mpls.config.files import tomllib
from mpls.errors import BadInput
from tests.bad_clusters import GOOD

OTHER = tomllib.loads("""
[cluster]
name = "other"
topology = "star"
seed = 2
random_prob = 0.25
degree = 2
out = "elsewhere"

[data]
dataset = "mnist"
root = "/data"
partition = "shards"
alpha = 0.1
balanced = false
min_samples = 8
chi = 0.75
shards = 5

[model]
name = "lenet5"

[training]
rounds = 7
batch_size = 64
lr = 0.5
momentum = 0.9
local_steps = 3
pace = "free"
publish_steps = 2
device = "cuda:1"
threads = 2
eval_every = 1
bootstrap = "peers"

[mpls]
strategy = "gossip"
scheduler = "eft"
tie = "index"
fill = "off"
progress = "path"
interval_s = 0.5

[network]
transport = "grpc"
emulate = "1-25Mbit"
nic = "100Mbit"
prior_bw = "1MB"
round_s = 5.0
stall_s = 1.5
retries = 0
status_s = 0.0
security = "curve"
grpc_mutual = false
norm_clip = 10.0

[checkpoint]
every_rounds = 5
keep = 3

[metrics]
port = 9100

[logging]
level = "debug"
dir = "logs"
""")
"""Another allowed value for every key that may change alone."""
TOGETHER = [
    {"mpls": {"tau1": 0.25, "tau2": 0.75}},
    {"network": {"grpc_ca": "ca.pem", "grpc_cert": "{name}.pem", "grpc_key": "{name}.key"}},
    {"data": {"partition": "classes", "classes": [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]}},
]
CHANGES = [
    *({table: {key: value}} for table, keys in OTHER.items() for key, value in keys.items()),
    *TOGETHER,
]
NOT_IN_HASH = {
    *("cluster.name", "cluster.out"),
    *("checkpoint.every_rounds", "checkpoint.keep"),
    *("metrics.port", "logging.level", "logging.dir"),
    *("network.grpc_mutual", "network.grpc_ca-network.grpc_cert-network.grpc_key"),
}
"""Where a run writes and whom it tells decides nothing that it computes."""


def name_of(change: dict[str, dict[str, Any]]) -> str:
    return "-".join(f"{table}.{key}" for table, keys in change.items() for key in keys)


def key_of(change: dict[str, dict[str, Any]]) -> str:
    return next(key for keys in change.values() for key in keys)


def test_there_is_another_value_for_every_key() -> None:
    tested = {f"{table}.{key}" for change in CHANGES for table in change for key in change[table]}
    known = {
        f"{table}.{key}"
        for table, field in ClusterConfig.model_fields.items()
        if table != "workers"
        for key in field.annotation.model_fields
    }
    assert tested == known


@pytest.mark.parametrize("change", CHANGES, ids=name_of)
def test_a_key_that_is_changed_reads_back_and_leaves_the_rest(
    change: dict[str, dict[str, Any]],
) -> None:
    before, after = builtin(), changed(builtin(), change)
    assert loads(dumps(after), "again") == after
    [(table, keys)] = change.items()
    was, now = before.model_dump(mode="json"), after.model_dump(mode="json")
    differing = {(t, k) for t in OTHER for k in was[t] if was[t][k] != now[t][k]}
    assert differing == {(table, key) for key in keys}
    assert (before.config_hash() == after.config_hash()) == (name_of(change) in NOT_IN_HASH)


REACHES: dict[str, Callable[[ClusterConfig], Any]] = {
    "mpls": ClusterConfig.plan_settings,
    "training": ClusterConfig.pace_settings,
    "network": ClusterConfig.pull_settings,
    "data": ClusterConfig.partition_settings,
}
DECIDED_ELSEWHERE = {
    *("dataset", "root", "shards"),
    *("batch_size", "lr", "momentum", "device", "threads"),
    *("transport", "emulate", "nic", "security", "norm_clip"),
    *("grpc_ca", "grpc_mutual"),
}
"""Keys of these tables that are no setting of the core's or the partition's."""


@pytest.mark.parametrize("change", [c for c in CHANGES if set(c) & set(REACHES)], ids=name_of)
def test_a_key_reaches_the_settings_that_it_belongs_to(change: dict[str, dict[str, Any]]) -> None:
    [table] = change
    before, after = REACHES[table](builtin()), REACHES[table](changed(builtin(), change))
    assert (before == after) == (key_of(change) in DECIDED_ELSEWHERE)


def test_each_setting_has_the_value_of_its_key() -> None:
    config = changed(builtin(), {"mpls": OTHER["mpls"], "network": OTHER["network"]})
    plan, pull = vars(config.plan_settings()), vars(config.pull_settings())
    assert {key: plan[key] for key in OTHER["mpls"]} == OTHER["mpls"]
    assert pull.pop("prior_bandwidth_Bps") == 1e6
    patience = {key: OTHER["network"][key] for key in ("round_s", "stall_s", "retries", "status_s")}
    assert patience.items() <= pull.items()


def test_the_topology_is_drawn_from_its_keys() -> None:
    nine = changed(builtin(), {"workers": [{"id": i, "address": "127.0.0.1:0"} for i in range(9)]})
    draws = [
        changed(nine, {"cluster": keys}).peers
        for keys in (
            {},
            {"seed": 2},
            {"topology": "full"},
            {"topology": "k-regular"},
            {"topology": "k-regular", "degree": 2},
            {"topology": "random"},
            {"topology": "random", "random_prob": 0.9},
        )
    ]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


def test_a_worker_s_own_keys_reach_it() -> None:
    own = 'id = 1\nname = "left"\nspeed = 0.5\ntransport = "grpc"\ngrpc_port = 9\nssh = "me@there"'
    config = loads(GOOD.replace("id = 1", own), "c.toml")
    worker = config.worker(1)
    assert (worker.name, worker.speed, worker.grpc_port, worker.ssh) == ("left", 0.5, 9, "me@there")
    assert [config.transport_of(number) for number in range(3)] == ["zmq", "grpc", "zmq"]
    assert (worker.host, worker.port) == ("127.0.0.1", 5701)
    assert loads(dumps(config), "again") == config


def test_who_has_left_is_talked_to_by_nobody_and_keeps_its_place() -> None:
    workers = [{"id": i, "address": f"127.0.0.1:{5700 + i}"} for i in range(4)]
    workers[1]["left"] = True
    config = changed(builtin(), {"workers": workers, "cluster": {"topology": "full"}})
    assert [worker.id for worker in config.present] == [0, 2, 3]
    assert config.peers == {0: (2, 3), 1: (), 2: (0, 3), 3: (0, 2)}
    assert config.links() == ((0, 2), (0, 3), (2, 3))
    assert config.shards == 4
    assert config.warnings == ()
    assert config.without([1]) == config
    assert config.without([]).peers_of(1) == (0, 2, 3)


def test_a_newcomer_may_listen_where_somebody_who_left_did() -> None:
    workers = [{"id": 0, "address": "127.0.0.1:1"}, {"id": 1, "address": "127.0.0.1:1"}]
    workers[0]["left"] = True
    assert len(changed(builtin(), {"workers": workers}).present) == 1


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"data": {"shards": 2}}, r"\[data\] shards = 2: must be 0, or at least 3"),
        (
            {"workers": [{"id": 0, "address": "127.0.0.1:0", "left": True}]},
            r"\[\[workers\]\]: every one of them has left",
        ),
        (
            {"workers": [{"id": i, "address": "127.0.0.1:0"} for i in (0, 2)]},
            r"id = 2: ids must be 0 to 1.*left = true",
        ),
    ],
)
def test_who_joins_and_leaves_is_checked(tables: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        changed(builtin(), tables)
