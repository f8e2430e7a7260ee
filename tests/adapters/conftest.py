"""Without grpcio none of these tests can run, which is said aloud."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("grpc") is None:
    import pytest

    pytest.skip('the gRPC tests need grpcio: pip install "mpls-dfl[grpc]"', allow_module_level=True)
