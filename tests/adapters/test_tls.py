"""Certificates name workers: with them gRPC is encrypted, and nobody is served or pulled from under
another's name.

Method: an authority and its certificates are made with openssl; real servers and pullers use them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from mpls.adapters import conformance
from mpls.adapters.conformance import Target
from mpls.adapters.credentials import Certificates
from mpls.cli import main
from mpls.core import protocol
from mpls.core.messages import Replied, RequestFailed
from mpls.errors import BadInput, Refused
from mpls.preflight import prepare
from tests.adapters.rig import GrpcPuller, serving_grpc
from tests.bad_clusters import GOOD
from tests.runtime.rig import received

if shutil.which("openssl") is None:
    pytest.skip("certificates are made with openssl, which is not here", allow_module_level=True)

Status = grpc.StatusCode


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    openssl(folder, "req", "-x509", *key, *files, "-days", "2", "-subj", f"/CN={name}")


def certificate(folder: Path, name: str, ca: str = "ca") -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
    openssl(folder, "req", *key, *files, "-subj", f"/CN={name}")
    (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
    sign = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2"]
    files = ["-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext"]
    openssl(folder, "x509", "-req", *files, *sign)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with the certificates of w0, w1 and w2, and another with one for w1x."""
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder, "ca")
    authority(folder, "other-ca")
    for name in ("w0", "w1", "w2"):
        certificate(folder, name)
    certificate(folder, "w1x", "other-ca")
    return folder


@pytest.fixture
def of(folder: Path) -> Callable[..., Certificates]:
    def read(name: str, ca: str = "ca", mutual: bool = True) -> Certificates:
        paths = [str(folder / file) for file in (f"{ca}.pem", f"{name}.pem", f"{name}.key")]
        return Certificates.read(*paths, mutual)

    return read


def ask(puller: GrpcPuller) -> object:
    return puller.ask(protocol.Status(puller.new_id()))


def test_with_certificates_layers_flow(of: Callable[..., Certificates]) -> None:
    with (
        serving_grpc(certificates=of("w0")) as (_, port),
        GrpcPuller(port, certificates=of("w1")) as puller,
    ):
        assert len(received(puller.pull("conv", "fc1"))) == 2


def test_nobody_is_served_under_another_s_name(of: Callable[..., Certificates]) -> None:
    with (
        serving_grpc(certificates=of("w0")) as (server, port),
        GrpcPuller(port, certificates=of("w2")) as puller,
    ):
        assert ask(puller) == RequestFailed(1, "refused")
        assert server.refusals == {"refused": 1}


def test_nobody_is_served_without_a_certificate_of_the_authority(
    of: Callable[..., Certificates],
) -> None:
    with serving_grpc(certificates=of("w0")) as (server, port):
        with GrpcPuller(port, certificates=of("w1x")) as puller:
            assert ask(puller) == RequestFailed(1, "unreachable")
        with GrpcPuller(port) as puller:
            assert ask(puller) == RequestFailed(1, "unreachable")
        assert server.received.total_bytes == 0


def test_nothing_is_pulled_from_whoever_is_not_the_peer(of: Callable[..., Certificates]) -> None:
    """Here w2 listens where w0 should."""
    with (
        serving_grpc(certificates=of("w2")) as (_, port),
        GrpcPuller(port, certificates=of("w1")) as puller,
    ):
        assert ask(puller) == RequestFailed(1, "unreachable")


def test_plaintext_is_not_spoken_to_a_worker_with_certificates(
    of: Callable[..., Certificates],
) -> None:
    with (
        serving_grpc() as (_, port),
        GrpcPuller(port, certificates=of("w1")) as puller,
    ):
        assert ask(puller) == RequestFailed(1, "unreachable")


def test_without_mutual_whoever_trusts_the_server_is_served(
    of: Callable[..., Certificates], folder: Path
) -> None:
    root = grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes())
    with serving_grpc(certificates=of("w0", mutual=False)) as (_, port):
        with Target(f"127.0.0.1:{port}", 1, root) as target:
            assert conformance.run(target)["a_layer_is_a_flat_npy_file_of_float32"] == ""
        with GrpcPuller(port, certificates=of("w2")) as puller:
            assert isinstance(ask(puller), Replied)


def test_the_conformance_command_takes_certificates(
    of: Callable[..., Certificates], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"--{flag}={folder / file}" for flag, file in FLAGS.items()]
    with serving_grpc(certificates=of("w0")) as (_, port):
        arguments = ["grpc-conformance", f"127.0.0.1:{port}", "--requester-id", "1"]
        assert main([*arguments, *files]) == 0
    assert "FAILED" not in capsys.readouterr().out


FLAGS = {"ca": "ca.pem", "cert": "w1.pem", "key": "w1.key"}


# --- files ---


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "w2.key").chmod(0o644)
    with pytest.raises(Refused, match=r"w2\.key: others can read it \(mode 644\); chmod 600"):
        Certificates.read(*(str(folder / f) for f in ("ca.pem", "w2.pem", "w2.key")), True)
    (folder / "w2.key").chmod(0o600)


def test_what_is_no_pem_file_is_named(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"\[network\] grpc_cert: .*w1\.ext is no PEM file"):
        Certificates.read(*(str(folder / f) for f in ("ca.pem", "w1.ext", "w1.key")), True)


# --- before a run ---

CURVE = '[network]\nsecurity = "curve"\ntransport = "grpc"\n'


def cluster(tmp_path: Path, network: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(GOOD + network)
    return path


def test_grpc_off_loopback_is_refused_without_certificates(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"gRPC off loopback needs certificates: give \[network\]"):
        prepare(cluster(tmp_path, CURVE))


def test_grpc_off_loopback_runs_in_plaintext_by_the_explicit_word(tmp_path: Path) -> None:
    path = cluster(tmp_path, '[network]\nsecurity = "plaintext"\ntransport = "grpc"\n')
    path.write_text(path.read_text().replace("127.0.0.1:5702", "192.0.2.7:5702"))
    prepared = prepare(path)
    assert prepared.adapter is not None
    assert any("whoever sees the network can read" in line for line in prepared.warnings)


def test_with_certificates_it_needs_no_curve_keys(tmp_path: Path, folder: Path) -> None:
    files = "\n".join(
        f'grpc_{key} = "{folder}/{file}"'
        for key, file in (("ca", "ca.pem"), ("cert", "{name}.pem"), ("key", "{name}.key"))
    )
    prepared = prepare(cluster(tmp_path, f"{CURVE}{files}\n"))
    assert prepared.keys is None
    assert prepared.adapter is not None


def test_one_file_of_three_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\[network\] grpc_cert is missing; TLS needs grpc_ca"):
        prepare(cluster(tmp_path, f'{CURVE}grpc_ca = "ca.pem"\n'))


def test_a_cluster_without_grpc_has_no_adapter(tmp_path: Path) -> None:
    assert prepare(cluster(tmp_path, "")).adapter is None
