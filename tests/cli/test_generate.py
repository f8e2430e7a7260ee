"""`mpls generate`: what is written loads back as what the flags say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpls.cli import main
from mpls.cli.generate import SUITS
from mpls.config import load, loads
from mpls.config.tables import DATASETS, PARTITIONS
from mpls.core.settings import STRATEGIES
from mpls.topology import KINDS, is_connected, neighbours


@pytest.mark.parametrize("topology", KINDS)
def test_every_topology_loads_back_equal(
    topology: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    drawn = ["--random-prob", "0.7", "--degree", "4", "--seed", "9"]
    flags = ["--topology", topology, "--workers", "8", *drawn]
    assert main(["generate", *flags, "-o", str(file)]) == 0
    config = load(file)
    assert (config.cluster.topology, len(config.workers)) == (topology, 8)
    assert config.peers == neighbours(topology, 8, seed=9, random_prob=0.7, degree=4)
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(rf"^{topology} of 8 workers: spectral gap 0?1?\.\d{{3}}$", said.err, re.M)
    assert main(["generate", *flags]) == 0
    assert loads(capsys.readouterr().out, "stdout") == config


def test_flags_reach_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    flags = (
        "--dataset cifar10 --partition main-label --alpha 0.1 --strategy netmax --seed 3"
        " --name mine --model lenet5 --base-address localhost --base-port 6000"
    )
    assert main(["generate", *flags.split(), "-o", str(file)]) == 0
    config = load(file)
    assert (config.data.dataset, config.data.partition, config.data.alpha) == (
        "cifar10",
        "main-label",
        0.1,
    )
    assert (config.mpls.strategy, config.model.name) == ("netmax", "lenet5")
    assert (config.cluster.seed, config.cluster.name) == (3, "mine")
    addresses = [worker.address for worker in config.workers]
    assert addresses == ["localhost:6000", "localhost:6001", "localhost:6002"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_data_set_gets_a_model_and_a_rate_that_suit_it(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--dataset", dataset]) == 0
    config = loads(capsys.readouterr().out, "stdout")
    assert (config.model.name, config.training.lr) == SUITS[dataset]


@pytest.mark.parametrize("strategy", [*STRATEGIES, "mine:Own"])
def test_every_strategy_can_be_named(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--strategy", strategy]) == 0
    assert loads(capsys.readouterr().out, "stdout").mpls.strategy == strategy


@pytest.mark.parametrize("workers", [2, 3, 20])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_partition_can_be_dealt(
    partition: str, workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "c.toml")
    assert main(["generate", "--partition", partition, f"--workers={workers}", "-o", file]) == 0
    # Half of a third of all samples is more than one label has.
    possible = partition != "main-label" or workers == 20
    assert main(["check", file]) == (0 if possible else 2)
    assert possible or "chi = 0.5 is unreachable" in capsys.readouterr().err


def test_addresses_off_loopback_are_neither_paced_nor_plaintext(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    addresses = "192.0.2.11:50051, server.example:50051,[2001:db8::1]:50051"
    assert main(["generate", "--addresses", addresses, "-o", str(file)]) == 0
    config = load(file)
    assert [worker.address for worker in config.workers] == addresses.replace(" ", "").split(",")
    assert config.network.emulate is None
    assert config.security() == "curve"
    assert not config.warnings


def test_split_writes_a_file_for_each_worker_that_says_how_to_run_it(tmp_path: Path) -> None:
    assert main(["generate", "-o", str(tmp_path / "c.toml"), "--split", "--base-port", "6000"]) == 0
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["c-w0.toml", "c-w1.toml", "c-w2.toml"]
    assert load(files[0]) == load(files[1]) == load(files[2])
    assert "#   mpls worker c-w1.toml --id 1\n" in files[1].read_text()


def test_a_file_is_overwritten_only_when_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("precious")
    assert main(["generate", "-o", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}: exists already; --force overwrites it\n"
    assert file.read_text() == "precious"
    assert main(["generate", "-o", str(file), "--force"]) == 0
    assert len(load(file).workers) == 3


def test_split_writes_nothing_when_one_of_its_files_is_there(tmp_path: Path) -> None:
    (tmp_path / "c-w1.toml").write_text("precious")
    assert main(["generate", "-o", str(tmp_path / "c.toml"), "--split"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["c-w1.toml"]


def test_a_disconnected_graph_is_written_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    flags = ["--topology", "random", "--random-prob", "0.05", "--workers", "12", "-o", str(file)]
    assert main(["generate", *flags]) == 0
    said = capsys.readouterr().err
    assert "warning: the topology is disconnected" in said
    assert "random of 12 workers: spectral gap 0.000" in said
    assert not is_connected(load(file).peers)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--addresses a:1,a:1", 'address = "a:1": worker 0 has it already'),
        ("--addresses a:1,127.0.0.1", 'address = "127.0.0.1": must be host:port'),
        ("--base-port 65535", 'address = "127.0.0.1:65536": must be host:port with a port from 0'),
        ("--base-address 192.0.2.1 --base-port 0", "port 0, any free one, is for loopback only"),
        ("--topology k-regular", "degree 4 needs at least 5 workers, not 3"),
        ("--topology random --random-prob 1.5", "[cluster] random_prob = 1.5: must be less than"),
        ("--alpha -1", "[data] alpha = -1.0: must be greater than 0"),
        ("--strategy best", '[mpls] strategy = "best": must be one of mpls'),
        ("--model alexnet", '[model] name = "alexnet": must be one of simple-mlp'),
        ("--seed -1", "[cluster] seed = -1: must be greater than or equal to 0"),
        ("--topology torus", "'torus' is not one of 'ring', 'full'"),
        ("--dataset imagenet", "'imagenet' is not one of 'digits', 'mnist'"),
        ("--workers 0", "0 is not in the range"),
        ("--workers 3 --addresses a:1,b:1", "--workers 3, but --addresses names 2"),
        ("--addresses a:1 --base-port 1", "exclude each other"),
        ("--split", "--split needs --output"),
        ("-o /no/such/folder/c.toml", "/no/such/folder/c.toml: cannot be written: No such file"),
    ],
)
def test_flags_that_make_no_cluster_are_refused(
    flags: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *flags.split()]) == 2
    said = capsys.readouterr()
    assert line in said.err
    assert said.out == ""
