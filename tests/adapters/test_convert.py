"""The earlier implementation's files become one cluster file, or a line that names both places."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpls.cli import main
from mpls.cli.convert import convert
from mpls.cli.old_files import read_federation
from mpls.config import ClusterConfig, load

OLD = Path(__file__).with_name("old")
Edit = Callable[[dict[str, Any]], object]


class Folder:
    """Three workers' files, which tests edit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for file in OLD.glob("*.yaml"):
            (path / file.name).write_text(file.read_text())

    def edit(self, name: str, edit: Edit) -> None:
        file = self.path / name
        content = yaml.safe_load(file.read_text())
        edit(content)
        file.write_text(yaml.safe_dump(content))

    def worker_files(self) -> list[Path]:
        return sorted(self.path.glob("worker_*.yaml"))

    def convert(self, *more: str) -> ClusterConfig:
        federation = read_federation([*self.worker_files(), *(self.path / m for m in more)])
        return convert(federation, "grpc", "old")[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def test_every_key_with_a_counterpart_is_carried_over(folder: Folder) -> None:
    def edit(old: dict[str, Any]) -> None:
        old["data"] |= {"dataset": "CIFAR10", "non_iid_level": 0.7}
        old["training"] |= {"batch_size": 64, "learning_rate": 0.05, "max_iterations": 7}
        old["mpls"] |= {"tau1": 0.25, "tau2": 0.75}
        old["model"]["name"] = "LeNet5"
        old["system"]["device"] = "cuda:0"
        old["logging"]["level"] = "DEBUG"

    for file in folder.worker_files():
        folder.edit(file.name, edit)
    folder.edit("worker_1.yaml", lambda old: old["system"].update(compute_speed=2))
    config = folder.convert()
    assert [worker.address for worker in config.workers] == [
        "localhost:50051",
        "localhost:50052",
        "localhost:50053",
    ]
    assert [worker.speed for worker in config.workers] == [1.0, 2.0, 1.0]
    assert config.peers == {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    data = config.data
    assert (data.dataset, data.partition, data.alpha) == ("cifar10", "dirichlet", 0.7)
    training = config.training
    assert (training.batch_size, training.lr, training.rounds) == (64, 0.05, 7)
    assert (training.device, training.local_steps) == ("cuda:0", 0)
    assert (config.mpls.tau1, config.mpls.tau2) == (0.25, 0.75)
    assert (config.model.name, config.logging.level) == ("lenet5", "debug")
    assert (config.network.transport, config.network.emulate) == ("grpc", None)


def test_what_is_evenly_dealt_stays_so(folder: Folder) -> None:
    for file in folder.worker_files():
        folder.edit(file.name, lambda old: old["data"].update(non_iid_level=0))
    assert folder.convert().data.partition == "iid"


def test_a_topology_alone_is_enough(folder: Folder) -> None:
    folder.edit("topology.yaml", lambda old: old.update(topology_type="random", num_workers=5))
    federation = read_federation([folder.path / "topology.yaml"])
    config, fates = convert(federation, "zmq", "old")
    assert [worker.port for worker in config.workers] == list(range(50051, 50056))
    assert (config.cluster.topology, config.cluster.random_prob) == ("random", 0.5)
    assert config.network.transport == "zmq"
    assert {fate.old for fate in fates} == set(yaml.safe_load((OLD / "topology.yaml").read_text()))


def test_a_topology_that_agrees_changes_nothing(folder: Folder) -> None:
    assert folder.convert("topology.yaml") == folder.convert()


def test_the_command_says_what_became_of_every_key(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.edit("worker_2.yaml", lambda old: old.update(colour="red"))
    files = [str(file) for file in folder.worker_files()]
    assert main(["convert", *files, "-o", "cluster.toml"]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    content = yaml.safe_load((OLD / "worker_0.yaml").read_text())
    for key, value in content.items():
        for name in (f"{key}.{inner}" for inner in value) if isinstance(value, dict) else [key]:
            assert any(line.startswith(f"{name} ") for line in said), name
    assert any(line.startswith('logging.dir "logs" [logging] dir; left out') for line in said)
    assert any(line.startswith('colour "red" no counterpart: an unknown') for line in said)
    assert load("cluster.toml").network.transport == "grpc"
    assert main(["convert", *files, "-o", "cluster.toml"]) == 2
    assert "exists already; --force" in capsys.readouterr().err


def test_off_loopback_it_says_what_is_needed_to_go_on(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folder.worker_files():
        file.write_text(file.read_text().replace("localhost:", "192.0.2.9:"))
    files = [str(file) for file in folder.worker_files()]
    assert main(["convert", *files]) == 0
    assert "warning: gRPC off loopback needs certificates" in capsys.readouterr().err
    assert main(["convert", "--transport", "zmq", *files]) == 0
    assert "warning: links off loopback are encrypted" in capsys.readouterr().err


W = "worker_{}.yaml"
REFUSED: dict[str, tuple[str, Edit, str]] = {
    "an id twice": (
        W.format(2),
        lambda old: old.update(worker_id=1),
        "worker_1.yaml and .*worker_2.yaml: both have worker_id = 1",
    ),
    "an id too high": (
        W.format(2),
        lambda old: old.update(worker_id=3),
        "worker_2.yaml: worker_id = 3: with 3 files ids are 0 to 2",
    ),
    "an id that is none": (
        W.format(2),
        lambda old: old.update(worker_id="2"),
        'worker_2.yaml: worker_id = "2": must be a whole number',
    ),
    "a peer that does not know it": (
        W.format(2),
        lambda old: old["peers"].pop(0),
        r"worker_0.yaml: peers\[1\]: id = 2, but .*worker_2.yaml: peers: has no id = 0",
    ),
    "a peer without a file": (
        W.format(2),
        lambda old: old["peers"].append({"id": 7, "address": "a:1"}),
        r"worker_2.yaml: peers\[2\]: id = 7: there is no file of worker 7",
    ),
    "itself as a peer": (
        W.format(2),
        lambda old: old["peers"].append({"id": 2, "address": "a:1"}),
        r"worker_2.yaml: peers\[2\]: id = 2: a worker cannot be its own peer",
    ),
    "a peer twice": (
        W.format(2),
        lambda old: old["peers"].append(dict(old["peers"][0])),
        r"worker_2.yaml: peers\[0\] and .*worker_2.yaml: peers\[2\]: both have id = 0",
    ),
    "a peer without an address": (
        W.format(2),
        lambda old: old["peers"][0].pop("address"),
        r'worker_2.yaml: peers\[0\] = \{"id": 0\}: must have an id and an address',
    ),
    "two addresses of one worker": (
        W.format(2),
        lambda old: old["peers"][0].update(address="otherhost:50051"),
        r'worker_1.yaml: peers\[0\]: address = "localhost:50051", but .*worker_2.yaml: peers\[0\]',
    ),
    "another port than it listens on": (
        W.format(2),
        lambda old: old.update(listen_address="0.0.0.0:9"),
        r'worker_2.yaml: listen_address = "0.0.0.0:9", but .*worker_0.yaml: peers\[1\]',
    ),
    "a setting that differs": (
        W.format(1),
        lambda old: old["training"].update(batch_size=64),
        "worker_0.yaml: training.batch_size = 32, but .*worker_1.yaml: training.batch_size = 64",
    ),
    "a topology of more workers": (
        "topology.yaml",
        lambda old: old.update(num_workers=4),
        "topology.yaml: num_workers = 4, but there are 3 workers' files, .*worker_0.yaml first",
    ),
    "another topology": (
        W.format(0),
        lambda old: old.update(peers=[]),
        r"worker_1.yaml: peers\[0\]: id = 0, but .*worker_0.yaml: peers: has no id = 1",
    ),
    "a table that is none": (
        W.format(0),
        lambda old: old.update(data=5),
        "worker_0.yaml: data = 5: must be a table",
    ),
    "neither kind of file": (
        "topology.yaml",
        lambda old: old.pop("topology_type"),
        "topology.yaml: has neither worker_id nor topology_type",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_contradict_each_other_are_refused_with_both_places(
    name: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    file, edit, why = REFUSED[name]
    folder.edit(file, edit)
    files = [str(file) for file in [*folder.worker_files(), folder.path / "topology.yaml"]]
    assert main(["convert", *files]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(why, said), said


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("data.dataset", "SVHN", 'data.dataset = "SVHN": must be one of mnist, fashionmnist'),
        ("model.name", "GPT", 'model.name = "GPT": must be one of simplemlp, lenet5'),
        ("training.batch_size", -3, "[training] batch_size = -3: must be greater than"),
        ("mpls.tau1", 0.9, "tau1 + tau2 = 1.4: must be 1"),
        ("system.device", "tpu", 'device = "tpu": must be cpu, cuda or cuda:N'),
    ],
)
def test_a_value_without_counterpart_is_refused(
    key: str, value: object, why: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    table, _, name = key.partition(".")
    for file in folder.worker_files():
        folder.edit(file.name, lambda old: old[table].update({name: value}))
    assert main(["convert", *map(str, folder.worker_files())]) == 2
    assert why in capsys.readouterr().err


BROKEN = {
    "no YAML": ("worker_id: [", "line 1: expected"),
    "a key twice": ("worker_id: 0\nworker_id: 1\n", "worker_id is in it twice"),
    "an alias": ("worker_id: &a 0\npeers: *a\n", "aliases are not allowed"),
    "a list": ("- 1\n", "must have keys and values"),
    "python": ("worker_id: !!python/object/apply:os.getpid []\n", "could not determine"),
    "deep": ("a: " + "[" * 5000, "not YAML"),
    "nothing": ("", "must have keys and values"),
    "binary": ("worker_id: \x00", "not YAML"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_worker_s_file_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, why = BROKEN[name]
    file = tmp_path / "w.yaml"
    file.write_text(text)
    assert main(["convert", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: ")
    assert why in said
    assert len(said.splitlines()) == 1


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "error: nowhere.yaml: no such file or directory\n"
