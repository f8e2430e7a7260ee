"""A worker of another make: written from `mpls_service.proto` alone, with grpcio and numpy only.

    python stranger.py PROTO DATA.npz ID PORT ROUNDS ID=HOST:PORT ...

It compiles the contract itself, trains a 784-64-10 perceptron on DATA, pulls each layer from one
peer after each pass, takes the mean of that and its own, and serves its weights all the while. It
says "ready" and begins with the weights of whichever peer answers first. When its rounds are done
it serves until its standard input ends, and then prints one line of JSON.
"""

from __future__ import annotations

import importlib
import io
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from grpc_tools import protoc

SHAPES = ((784, 64), (64, 10))
BATCH, RATE = 32, 0.1
Layer = tuple[np.ndarray, np.ndarray]
"""Weight, outputs first as torch has it, and bias."""


def compiled(proto: str) -> tuple[Any, Any]:
    """The contract's messages and its service."""
    folder = tempfile.mkdtemp()
    place, _, name = proto.rpartition("/")
    assert not protoc.main(
        ["", f"-I{place}", f"--python_out={folder}", f"--grpc_python_out={folder}", name]
    )
    sys.path.insert(0, folder)
    stem = name.removesuffix(".proto")
    return importlib.import_module(f"{stem}_pb2"), importlib.import_module(f"{stem}_pb2_grpc")


class Model:
    """The weights, which one thread trains and others read."""

    def __init__(self) -> None:
        self.layers: list[Layer] = [
            (np.zeros((out, into), "f4"), np.zeros(out, "f4")) for into, out in SHAPES
        ]
        self.iteration = 0
        self.status = "idle"

    def forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (w1, b1), (w2, b2) = self.layers
        hidden = np.maximum(images @ w1.T + b1, 0)
        return hidden, hidden @ w2.T + b2

    def step(self, images: np.ndarray, labels: np.ndarray) -> None:
        w2 = self.layers[1][0]
        hidden, logits = self.forward(images)
        slope = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(labels)), labels] -= 1
        slope /= len(labels)
        back = (slope @ w2) * (hidden > 0)
        steps = ((back.T @ images, back.sum(0)), (slope.T @ hidden, slope.sum(0)))
        self.layers = [
            (w - RATE * dw, b - RATE * db) for (w, b), (dw, db) in zip(self.layers, steps)
        ]

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float((self.forward(images)[1].argmax(1) == labels).mean())

    def flat(self, index: int) -> np.ndarray:
        weight, bias = self.layers[index]
        return np.concatenate([weight.ravel(), bias]).astype("<f4")

    def put(self, index: int, flat: np.ndarray) -> None:
        into, out = SHAPES[index]
        assert flat.shape == (into * out + out,)
        self.layers[index] = (flat[: into * out].reshape(out, into), flat[into * out :])


def servicer(pb: Any, rpc: Any, me: int, model: Model, shares: list[float]) -> Any:
    class Servicer(rpc.MPLSServiceServicer):  # type: ignore[misc]
        """Serves what the model is at the moment."""

        served = 0

        def PullLayers(self, request: Any, context: Any) -> Any:
            response = pb.LayerResponse(peer_id=me, iteration=model.iteration)
            for index in request.layer_indices:
                if not 0 <= index < len(SHAPES):
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"layer {index}")
                file, values = io.BytesIO(), model.flat(index)
                np.save(file, values, allow_pickle=False)
                response.layers.add(
                    layer_index=index,
                    parameters=file.getvalue(),
                    shape=list(values.shape),
                    dtype="torch.float32",
                )
                Servicer.served += 1
            return response

        def GetMetadata(self, request: Any, context: Any) -> Any:
            return pb.PeerMetadata(
                peer_id=me,
                data_distribution=shares,
                status=model.status,
                current_iteration=model.iteration,
                compute_speed=1.0,
            )

        def Heartbeat(self, request: Any, context: Any) -> Any:
            now_ms = int(time.time() * 1000)
            return pb.HeartbeatResponse(peer_id=me, alive=True, timestamp=now_ms)

        def MeasureBandwidth(self, request: Any, context: Any) -> Any:
            size = min(request.payload_size_mb, 1) * 2**20
            return pb.BandwidthResponse(peer_id=me, payload=bytes(size))

    return Servicer()


class Peer:
    """One of the others, as its client."""

    def __init__(self, pb: Any, rpc: Any, me: int, place: str) -> None:
        number, _, address = place.partition("=")
        self.number, self._pb, self._me = int(number), pb, me
        self._stub = rpc.MPLSServiceStub(grpc.insecure_channel(address))

    def pull(self, iteration: int, *indices: int) -> dict[int, np.ndarray]:
        request = self._pb.LayerRequest(
            requester_id=self._me, layer_indices=indices, iteration=iteration
        )
        response = self._stub.PullLayers(request, timeout=30.0)
        assert response.peer_id == self.number
        return {
            layer.layer_index: np.load(io.BytesIO(layer.parameters), allow_pickle=False)
            for layer in response.layers
        }


def main() -> None:
    proto, data, number, port, rounds, *places = sys.argv[1:]
    pb, rpc = compiled(proto)
    arrays, me, model = np.load(data), int(number), Model()
    images, labels = arrays["images"], arrays["labels"]
    shares = (np.bincount(labels, minlength=10) / len(labels)).tolist()
    service = servicer(pb, rpc, me, model, shares)
    server = grpc.server(ThreadPoolExecutor(8))
    rpc.add_MPLSServiceServicer_to_server(service, server)
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    peers = [Peer(pb, rpc, me, place) for place in places]
    print("ready", flush=True)
    begin_with(model, peers)
    server.start()
    model.status = "training"
    pulled = train(model, peers, images, labels, int(rounds))
    model.status = "idle"
    accuracy = model.accuracy(arrays["test_images"], arrays["test_labels"])
    sys.stdin.read()
    server.stop(None)
    print(json.dumps({"accuracy": accuracy, "pulled": pulled, "served": type(service).served}))


def begin_with(model: Model, peers: list[Peer]) -> None:
    """Everybody begins with the same weights; these are of whoever answers first."""
    nap, why = threading.Event(), "nobody is there"
    for turn in range(600):
        try:
            for index, flat in peers[turn % len(peers)].pull(0, 0, 1).items():
                model.put(index, flat)
            return
        except grpc.RpcError as error:
            why = error.details()
            nap.wait(0.1)
    raise SystemExit(f"nobody answers: {why}")


def train(
    model: Model, peers: list[Peer], images: np.ndarray, labels: np.ndarray, rounds: int
) -> dict[str, int]:
    """Passes over the data, and layers in between; returns how many came from each peer."""
    order, chance = np.random.default_rng(1), random.Random(1)
    pulled = {str(peer.number): 0 for peer in peers}
    for _ in range(rounds):
        shuffled = order.permutation(len(labels))
        for start in range(0, len(labels), BATCH):
            batch = shuffled[start : start + BATCH]
            model.step(images[batch], labels[batch])
        model.status = "aggregating"
        for index in range(len(SHAPES)):
            peer = chance.choice(peers)
            try:
                theirs = peer.pull(model.iteration, index)[index]
            except grpc.RpcError:
                continue
            pulled[str(peer.number)] += 1
            model.put(index, (model.flat(index) + theirs) / 2)
        model.iteration += 1
        model.status = "training"
    return pulled


if __name__ == "__main__":
    main()
