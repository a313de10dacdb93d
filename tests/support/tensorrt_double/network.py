"""A network definition as the ONNX parser leaves it: layers and tensors, without the weights' values."""

from __future__ import annotations

from typing import Any

from tests.support.tensorrt_double.values import make


def is_strong(network: Any) -> bool:
    """Whether a network is strongly typed; from version 11, which has no implicit types, every one is."""
    flags = network._trt.NetworkDefinitionCreationFlag
    return not hasattr(flags, "EXPLICIT_BATCH") or network.get_flag(flags.STRONGLY_TYPED)


def new_network(builder: Any, logger: Any, flags: int) -> Any:
    """An empty network."""
    return make(
        builder._trt,
        "INetworkDefinition",
        _name="Unnamed Network 0",
        _flags=flags,
        _builder=builder,
        _logger=logger,
        _layers=[],
        _inputs=[],
        _outputs=[],
        _model=b"",
    )


def new_tensor(trt: Any, name: str, dtype: Any, shape: list[int], side: str = "") -> Any:
    """A tensor; `side` is 'input' or 'output' of the network, or empty."""
    return make(trt, "ITensor", _name=name, _dtype=dtype, _shape=shape, _side=side)


def new_layer(network: Any, name: str, kind: str, node: str, inputs: list[Any], outputs: list[Any]) -> Any:
    """A layer; `node` is the ONNX node that it is made of, empty for a constant."""
    return make(
        network._trt,
        "ILayer",
        _network=network,
        _name=name,
        _type=getattr(network._trt.LayerType, kind),
        # importerUtils.cpp of onnx/onnx-tensorrt, processMetadata
        _metadata=f"[ONNX Layer: {node}]" if node else "",
        _inputs=inputs,
        _outputs=outputs,
        _precision=None,
        _output_types={},
    )


def _at(items: list[Any], index: int) -> Any:
    return items[index] if 0 <= index < len(items) else None


class INetworkDefinition:
    """The network; made by `Builder.create_network`."""

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def flags(self) -> int:
        return self._flags

    @property
    def has_implicit_batch_dimension(self) -> bool:
        return False

    @property
    def builder(self) -> Any:
        return self._builder

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def get_layer(self, index: int) -> Any:
        return _at(self._layers, index)

    def get_input(self, index: int) -> Any:
        return _at(self._inputs, index)

    def get_output(self, index: int) -> Any:
        return _at(self._outputs, index)

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Any:
        return self._layers[index]


class ILayer:
    """A layer; made by the parser."""

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def metadata(self) -> str:
        return self._metadata

    @metadata.setter
    def metadata(self, value: str) -> None:
        self._metadata = value

    @property
    def type(self) -> Any:
        return self._type

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> Any:
        return _at(self._inputs, index)

    def get_output(self, index: int) -> Any:
        return _at(self._outputs, index)

    def get_output_type(self, index: int) -> Any:
        return self._output_types.get(index, self._outputs[index]._dtype)

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._constrain("set_output_type")
        self._output_types[index] = dtype

    def output_type_is_set(self, index: int) -> bool:
        return index in self._output_types

    def reset_output_type(self, index: int) -> None:
        self._output_types.pop(index, None)

    @property
    def precision(self) -> Any:
        return self._precision or self._trt.DataType.FLOAT

    @precision.setter
    def precision(self, value: Any) -> None:
        self._constrain("precision")
        self._precision = value

    @property
    def precision_is_set(self) -> bool:
        return self._precision is not None

    def reset_precision(self) -> None:
        self._precision = None

    def _constrain(self, what: str) -> None:
        # What the library says then is not known here, so the test stops.
        assert not is_strong(self._network), f"TensorRT does not permit {what} in a strongly typed network"


class ITensor:
    """A tensor between layers; made by the parser."""

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def shape(self) -> Any:
        return self._trt.Dims(self._shape)

    @property
    def is_network_input(self) -> bool:
        return self._side == "input"

    @property
    def is_network_output(self) -> bool:
        return self._side == "output"

    @property
    def location(self) -> Any:
        return self._trt.TensorLocation.DEVICE
