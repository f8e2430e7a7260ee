"""The contract as a file: the names and numbers that others rely on, and code that is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpls.adapters import mpls_service_pb2 as messages

ROOT = Path(__file__).parents[2]
GENERATED = ("mpls_service_pb2.py", "mpls_service_pb2.pyi", "mpls_service_pb2_grpc.py")
FIELDS = {
    "LayerRequest": "1 requester_id int32, 2 layer_indices int32*, 3 iteration int32",
    "LayerResponse": "1 peer_id int32, 2 layers LayerData*, 3 iteration int32",
    "LayerData": "1 layer_index int32, 2 parameters bytes, 3 shape int32*, 4 dtype string",
    "MetadataRequest": "1 requester_id int32",
    "PeerMetadata": "1 peer_id int32, 2 data_distribution float*, 3 status string,"
    " 4 current_iteration int32, 5 compute_speed float",
    "HeartbeatRequest": "1 sender_id int32, 2 timestamp int64",
    "HeartbeatResponse": "1 peer_id int32, 2 alive bool, 3 timestamp int64",
    "BandwidthRequest": "1 requester_id int32, 2 payload_size_mb int32",
    "BandwidthResponse": "1 peer_id int32, 2 payload bytes, 3 timestamp int64",
}
CALLS = {
    "PullLayers": ("LayerRequest", "LayerResponse"),
    "GetMetadata": ("MetadataRequest", "PeerMetadata"),
    "Heartbeat": ("HeartbeatRequest", "HeartbeatResponse"),
    "MeasureBandwidth": ("BandwidthRequest", "BandwidthResponse"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make proto` would write."""
    folder = tmp_path_factory.mktemp("proto")
    options = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    proto = "mpls/adapters/mpls_service.proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *options, proto]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "mpls" / "adapters"


@pytest.mark.parametrize("name", GENERATED)
def test_the_generated_code_is_current(name: str, folder: Path) -> None:
    ours = ROOT / "mpls" / "adapters" / name
    assert ours.read_text() == (folder / name).read_text(), "make proto"


def test_names_and_field_numbers_are_those_of_the_contract() -> None:
    file = messages.DESCRIPTOR
    assert file.package == "mpls"
    assert {name: fields(message) for name, message in file.message_types_by_name.items()} == FIELDS


def test_the_service_has_its_four_calls() -> None:
    [service] = messages.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "mpls.MPLSService"
    calls = {call.name: (call.input_type.name, call.output_type.name) for call in service.methods}
    assert calls == CALLS


def fields(message: object) -> str:
    listed = message.fields  # type: ignore[attr-defined]
    kinds = {field.number: _kind(field) for field in listed}
    return ", ".join(f"{field.number} {field.name} {kinds[field.number]}" for field in listed)


def _kind(field: object) -> str:
    names = {5: "int32", 3: "int64", 2: "float", 8: "bool", 9: "string", 12: "bytes"}
    inner = field.message_type  # type: ignore[attr-defined]
    kind = inner.name if inner is not None else names[field.type]  # type: ignore[attr-defined]
    return kind + ("*" if field.is_repeated else "")  # type: ignore[attr-defined]


def test_nothing_but_the_adapters_needs_grpc() -> None:
    """Not even the command that lists them."""
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("grpc", "google", "yaml"):
            raise ImportError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
import mpls, mpls.adapters, mpls.preflight, mpls.runtime.worker
import mpls.cli.convert, mpls.cli.grpc_conformance
from mpls.cli import main
assert main(["--help"]) == 0
mpls.preflight.prepare(None)
for arguments in (
    ["grpc-conformance", "127.0.0.1:1"], ["run", "--transport", "grpc"], ["convert", sys.argv[1]]
):
    assert main(arguments) == 2, arguments
"""
    old = ROOT / "tests" / "adapters" / "old" / "worker_0.yaml"
    said = subprocess.run(
        [sys.executable, "-c", code, str(old)], capture_output=True, text=True, cwd=ROOT
    )
    assert said.returncode == 0, said.stderr
    errors = said.stderr.splitlines()
    assert len(errors) == 3
    assert all('pip install "mpls-dfl[grpc]"' in error for error in errors), errors
