from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LayerRequest(_message.Message):
    __slots__ = ("requester_id", "layer_indices", "iteration")
    REQUESTER_ID_FIELD_NUMBER: _ClassVar[int]
    LAYER_INDICES_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    requester_id: int
    layer_indices: _containers.RepeatedScalarFieldContainer[int]
    iteration: int
    def __init__(self, requester_id: _Optional[int] = ..., layer_indices: _Optional[_Iterable[int]] = ..., iteration: _Optional[int] = ...) -> None: ...

class LayerResponse(_message.Message):
    __slots__ = ("peer_id", "layers", "iteration")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    layers: _containers.RepeatedCompositeFieldContainer[LayerData]
    iteration: int
    def __init__(self, peer_id: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[LayerData, _Mapping]]] = ..., iteration: _Optional[int] = ...) -> None: ...

class LayerData(_message.Message):
    __slots__ = ("layer_index", "parameters", "shape", "dtype")
    LAYER_INDEX_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    layer_index: int
    parameters: bytes
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, layer_index: _Optional[int] = ..., parameters: _Optional[bytes] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class MetadataRequest(_message.Message):
    __slots__ = ("requester_id",)
    REQUESTER_ID_FIELD_NUMBER: _ClassVar[int]
    requester_id: int
    def __init__(self, requester_id: _Optional[int] = ...) -> None: ...

class PeerMetadata(_message.Message):
    __slots__ = ("peer_id", "data_distribution", "status", "current_iteration", "compute_speed")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_ITERATION_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SPEED_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    data_distribution: _containers.RepeatedScalarFieldContainer[float]
    status: str
    current_iteration: int
    compute_speed: float
    def __init__(self, peer_id: _Optional[int] = ..., data_distribution: _Optional[_Iterable[float]] = ..., status: _Optional[str] = ..., current_iteration: _Optional[int] = ..., compute_speed: _Optional[float] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("sender_id", "timestamp")
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    sender_id: int
    timestamp: int
    def __init__(self, sender_id: _Optional[int] = ..., timestamp: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("peer_id", "alive", "timestamp")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    alive: bool
    timestamp: int
    def __init__(self, peer_id: _Optional[int] = ..., alive: _Optional[bool] = ..., timestamp: _Optional[int] = ...) -> None: ...

class BandwidthRequest(_message.Message):
    __slots__ = ("requester_id", "payload_size_mb")
    REQUESTER_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SIZE_MB_FIELD_NUMBER: _ClassVar[int]
    requester_id: int
    payload_size_mb: int
    def __init__(self, requester_id: _Optional[int] = ..., payload_size_mb: _Optional[int] = ...) -> None: ...

class BandwidthResponse(_message.Message):
    __slots__ = ("peer_id", "payload", "timestamp")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    payload: bytes
    timestamp: int
    def __init__(self, peer_id: _Optional[int] = ..., payload: _Optional[bytes] = ..., timestamp: _Optional[int] = ...) -> None: ...
