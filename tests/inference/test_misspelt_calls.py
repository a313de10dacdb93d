"""Calls of TensorRT that a version lacks fail there: each is misspelt in our own code, which is then run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest

from edgeemo.inference import trt, trt_builder, trt_layers, trt_library
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.choice import example
from tests.support.tensorrt_opened import VERSIONS, opened

OLD, NEW = VERSIONS
Spelling = tuple[ModuleType, str, str, str, tuple[str, ...]]
SPELLINGS: tuple[Spelling, ...] = (
    # module, function, what it says, what it is to say, versions that lack that
    (trt, "TrtGraph._execute", ".execute_async_v3(", ".execute_async_v4(", VERSIONS),
    (trt, "TrtGraph._execute", ".execute_async_v3(", ".execute_async_v2(", VERSIONS),
    (trt, "TrtGraph._execute", "_v3(self._cuda.stream)", "_v3(stream=self._cuda.stream)", VERSIONS),
    (trt, "TrtGraph._set_up", ".set_tensor_address(", ".set_tensor_adress(", VERSIONS),
    (trt, "TrtGraph._set_up", ".set_input_shape(", ".set_binding_shape(", VERSIONS),
    (trt, "TrtGraph._open", ".device_memory_size_v2", ".device_memory_size", (NEW,)),
    (trt, "TrtGraph._context", "strategies.USER_MANAGED", "strategies.USER", VERSIONS),
    (trt, "TrtGraph._hold_to_spec", ".num_io_tensors", ".num_bindings", VERSIONS),
    (trt_library, "TensorRt.deserialise", ".deserialize_cuda_engine(", ".deserialise_cuda_engine(", VERSIONS),
    (trt_library, "TensorRt.__init__", "module.Runtime", "module.runtime", VERSIONS),
    (trt_builder, "_Task.build", ".create_network(", ".create_network_v2(", VERSIONS),
    (trt_builder, "_Task._configure", ".clear_flag(", ".unset_flag(", VERSIONS),
    (trt_builder, "_Task._configure", "BuilderFlag.TF32)", "BuilderFlag.FP16)", (NEW,)),
    (trt_builder, "_Task._configure", ".max_aux_streams", ".max_auxiliary_streams", VERSIONS),
    (trt_builder, "_Task._configure", "settings.workspace)", "float(settings.workspace))", VERSIONS),
    (trt_builder, "_Task._add_profile", ".set_shape(name, smallest, ", ".set_shape(name, ", VERSIONS),
    (trt_builder, "_Task._use_timing_cache", "cache, ignore_mismatch", "cache, ignore_mismatches", VERSIONS),
    (trt_builder, "_Task._serialise", ".build_serialized_network(", ".build_engine(", VERSIONS),
    (trt_layers, "read_layers", ".get_engine_information(", ".engine_information(", VERSIONS),
)


def misspell(monkeypatch: pytest.MonkeyPatch, spelling: Spelling) -> None:
    module, name, right, wrong, _ = spelling
    function = code_of(vars(module), name)
    source = inspect.getsource(function)
    assert right in source
    whole = inspect.getsource(module).replace(source, source.replace(right, wrong))
    scratch = dict(vars(module))
    exec(compile(whole, f"{module.__name__}, misspelt", "exec"), scratch)
    monkeypatch.setattr(function, "__code__", code_of(scratch, name).__code__)


def code_of(names: dict[str, Any], name: str) -> FunctionType:
    first, *rest = name.split(".")
    found: Callable[..., Any] = names[first]
    for part in rest:
        found = vars(found)[part]
    assert isinstance(found, FunctionType)
    return found


def run(version: str, bundle: Bundle) -> None:
    """The whole way from a file to an answer."""
    with opened(version, clean=False) as rig:  # the error keeps frames, and those what the device holds
        graph = rig.open(bundle, "face", "int8")
        graph.run(example(graph.spec))
        graph.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("spelling", SPELLINGS, ids=[f"{row[1]} {row[3]}" for row in SPELLINGS])
def test_a_misspelt_call_of_ours_fails(
    spelling: Spelling, version: str, default_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.read(default_bundle)
    misspell(monkeypatch, spelling)
    if version in spelling[-1]:
        words = "|".join(re.findall(r"\w{4,}", spelling[3]))
        with pytest.raises((AttributeError, TypeError), match=f"{words}|incompatible function arguments"):
            run(version, bundle)
    else:
        run(version, bundle)


@pytest.mark.parametrize("version", VERSIONS)
def test_spelt_as_they_are_they_work(version: str, default_bundle: Any) -> None:
    run(version, Bundle.read(default_bundle))
