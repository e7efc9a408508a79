"""Exported programs, TorchScript and weights for a class: made here, and asked without a server."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlserver_torch import TorchModel, __version__
from safetensors.torch import save_file
from tests.tabular import described, refused
from torch import nn

from mlserver import ModelSettings
from mlserver.codecs import NumpyCodec
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, MetadataTensor, RequestInput, RequestOutput

# A module as users keep it beside their settings.
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 2):
        super().__init__()
        self.linear = nn.Linear(3, width)
        self.dropout = nn.Dropout()

    def forward(self, x, bias=None):
        y = self.dropout(self.linear(x))
        assert torch.is_inference_mode_enabled()
        return y if bias is None else y + bias

class Broken(Net):
    def forward(self, x):
        raise ValueError("this model is broken")

class Odd(Net):
    def forward(self, x):
        return "text"

class Positional(Net):
    def forward(self, x, /):
        return self.linear(x)

no_module = 3
"""


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout()

    def forward(self, x: torch.Tensor) -> Any:
        return self.dropout(self.linear(x))


class Two(Linear):
    """Two inputs, one of which may be left out, and two outputs by position."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor | None = None, n: int = 1) -> Any:
        total = a + b * n
        return total if scale is None else total * scale, total.sum(1)


class Named(Linear):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        return {"total": a + b, "sums": (a + b).sum(1)}


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 2)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.embedding(ids)


@pytest.fixture
def linear() -> Linear:
    torch.manual_seed(0)
    return Linear().eval()


def script(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))


def export(module: nn.Module, path: Path, *args: Any, batch: Any = "batch", **kwargs: Any) -> None:
    """An exported program whose tensors have a batch of any size; of a fixed one without a name."""
    dimension = torch.export.Dim(batch) if isinstance(batch, str) else batch
    given = dict(zip(list(module.forward.__annotations__), args, strict=False)) | kwargs
    shapes = {name: {0: dimension} if batch else None for name in given}
    program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    torch.export.save(program, str(path))


async def serve(path: Path, extra: dict[str, Any] | None = None, **settings: Any) -> TorchModel:
    model = TorchModel(settings_of(path, extra, **settings))
    assert await model.load()
    return model


def settings_of(path: Path, extra: dict[str, Any] | None = None, **settings: Any) -> ModelSettings:
    parameters = ModelParameters(uri=str(path), version="v1", extra=extra)
    source = str((path if path.is_dir() else path.parent) / "model-settings.json")
    return ModelSettings(
        name="m", implementation=TorchModel, parameters=parameters, _source=source, **settings
    )


def request(*outputs: str, **arrays: Any) -> InferenceRequest:
    """Arrays as inputs of these names, their memory read-only, as that of a body may be."""
    inputs = []
    for name, value in arrays.items():
        tensor = NumpyCodec.encode_input(name, np.asarray(value))
        tensor.shape = list(np.shape(value))
        inputs.append(tensor)
    return InferenceRequest(inputs=inputs, outputs=[RequestOutput(name=name) for name in outputs] or None)


async def answers(model: TorchModel, made: InferenceRequest) -> dict[str, Any]:
    response = await model.predict(made)
    assert (response.model_name, response.model_version) == ("m", "v1")
    return {output.name: NumpyCodec.decode_output(output) for output in response.outputs}


def f4(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def expected(module: nn.Module, array: Any) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(array)).numpy()


def declare(**shapes: list[int]) -> list[MetadataTensor]:
    return [MetadataTensor(name=name, datatype="FP32", shape=shape) for name, shape in shapes.items()]


# --- answers -----------------------------------------------------------------------------------------------


async def test_the_three_kinds_of_files_answer_as_the_module_does(tmp_path: Path, linear: Linear) -> None:
    export(linear, tmp_path / "a.pt2", torch.ones(4, 3))
    script(linear, tmp_path / "b.pt")
    save_file(linear.state_dict(), tmp_path / "c.safetensors")
    torch.save(linear.state_dict(), tmp_path / "d.pt")
    (tmp_path / "nets.py").write_text(CODE)
    extra = {"module": "nets.Net"}
    for file, options in (("a.pt2", {}), ("b.pt", {}), ("c.safetensors", extra), ("d.pt", extra)):
        model = await serve(tmp_path / file, options)
        assert isinstance(model._model, nn.Module)
        for rows in (1, 5):
            got = await answers(model, request(x=f4(rows, 3)))
            assert list(got) == ["output-0"]
            np.testing.assert_array_equal(got["output-0"], expected(linear, f4(rows, 3)))
        assert await model.unload()


async def test_the_only_input_may_have_any_name(tmp_path: Path, linear: Linear) -> None:
    export(linear, tmp_path / "a.pt2", torch.ones(4, 3))
    script(linear, tmp_path / "b.pt")
    for file in ("a.pt2", "b.pt"):
        got = await answers(await serve(tmp_path / file), request(image=f4(2, 3)))
        np.testing.assert_array_equal(got["output-0"], expected(linear, f4(2, 3)))
    text = await refused(await serve(tmp_path / "a.pt2"), request(image=f4(2, 4)))
    assert re.fullmatch(r"input 'image' has shape \[2, 4\], but the model expects \[s\d+, 3\]", text)


@pytest.mark.parametrize("kind", ["pt2", "pt"])
async def test_inputs_by_name_and_outputs_by_position(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"model.{kind}"
    if kind == "pt2":
        export(Two(), path, torch.ones(4, 2), b=torch.ones(4, 2))
    else:
        script(Two(), path)
    a, b = f4(3, 2), f4(3, 2) + 1
    model = await serve(path)
    got = await answers(model, request(b=b, a=a))
    assert list(got) == ["output-0", "output-1"]
    np.testing.assert_array_equal(got["output-0"], a + b)
    (sums,) = (await model.predict(request("output-1", a=a, b=b))).outputs
    assert (sums.shape, sums.datatype) == ([3], "FP32")
    np.testing.assert_array_equal(sums.data.array, (a + b).sum(1))
    assert await refused(model, request("mean", a=a, b=b)) == (
        "the model has no output 'mean': it gives 'output-0', 'output-1'"
    )
    model = await serve(path, outputs=declare(total=[-1, 2], sums=[-1]))
    assert list(await answers(model, request("sums", a=a, b=b))) == ["sums"]
    if kind == "pt":
        got = await answers(model, request(a=a, b=b, scale=f4(1) + 10))
        np.testing.assert_array_equal(got["total"], (a + b) * 10)


@pytest.mark.parametrize("kind", ["pt2", "safetensors"])
async def test_outputs_of_a_dictionary_keep_their_names(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"model.{kind}"
    extra = {}
    if kind == "pt2":
        export(Named(), path, torch.ones(4, 2), torch.ones(4, 2))
    else:
        save_file(Named().state_dict(), path)
        extra = {"module": f"{__name__}.Named"}
    got = await answers(await serve(path, extra), request("sums", "total", a=f4(2, 2), b=f4(2, 2)))
    assert list(got) == ["sums", "total"]
    np.testing.assert_array_equal(got["total"], 2 * f4(2, 2))


async def test_nested_inputs_and_constants_of_an_exported_program(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, pair: Any, factor: Any, more: Any) -> Any:
            return (pair[0] + pair[1]) * factor + more["x"]

    program = torch.export.export(Nested(), ((torch.ones(2), torch.ones(2)), 3, {"x": torch.ones(2)}))
    torch.export.save(program, str(tmp_path / "model.pt2"))
    model = await serve(tmp_path)
    assert [tensor.name for tensor in model.inputs] == ["pair_0", "pair_1", "more_x"]
    got = await answers(model, request(pair_0=f4(2), pair_1=f4(2), more_x=f4(2)))
    np.testing.assert_array_equal(got["output-0"], f4(2) * 7)


async def test_options_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    save_file(
        {"linear.weight": torch.ones(4, 3), "linear.bias": torch.zeros(4)}, tmp_path / "model.safetensors"
    )
    extra = {"module": "nets.Net", "module_args": {"width": 4}, "dtype": "bfloat16", "device": "cpu"}
    model = await serve(tmp_path, extra)
    assert next(model._model.parameters()).dtype is torch.bfloat16
    assert not model._model.training
    for array in (f4(2, 3), f4(2, 3).astype(np.float64)):
        (output,) = (await model.predict(request(x=array))).outputs
        assert (output.datatype, output.shape, output.data.root) == ("FP32", [2, 4], [3.0] * 4 + [12.0] * 4)
    got = await answers(model, request(x=f4(2, 3), bias=f4(4)))
    np.testing.assert_array_equal(got["output-0"], [[3, 4, 5, 6], [12, 13, 14, 15]])


async def test_a_program_of_bfloat16(tmp_path: Path, linear: Linear) -> None:
    export(linear.bfloat16(), tmp_path / "model.pt2", torch.ones(4, 3, dtype=torch.bfloat16))
    model = await serve(tmp_path)
    assert described(model.inputs) == [("x", "FP32", [-1, 3])]
    got = await answers(model, request(x=f4(2, 3)))
    with torch.no_grad():
        np.testing.assert_array_equal(got["output-0"], linear(torch.from_numpy(f4(2, 3)).bfloat16()).float())


async def test_what_may_be_written_to_is_not_copied(tmp_path: Path, linear: Linear) -> None:
    script(linear, tmp_path / "model.pt")
    model = await serve(tmp_path)
    writable = f4(2, 3)
    assert np.shares_memory(model._tensor("x", writable).numpy(), writable)
    writable.flags.writeable = False
    assert not np.shares_memory(model._tensor("x", writable).numpy(), writable)
    result = model._run({"x": f4(2, 3)}, [])["output-0"]
    (output,) = (await model.predict(request(x=f4(2, 3)))).outputs
    np.testing.assert_array_equal(output.data.array, result)


# --- what a request gets wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({}, "the request lacks inputs 'a', 'b': the model expects 'a', 'b'"),
        ({"a": f4(2, 2)}, "the request lacks input 'b'"),
        ({"a": f4(2, 2), "b": f4(2, 2), "c": f4(1)}, "the request has unknown input 'c'"),
        (
            {"a": f4(2, 2), "b": f4(2, 2).astype(int)},
            "input 'b' has datatype INT64, but the model expects FP32",
        ),
        ({"a": f4(2, 3), "b": f4(2, 2)}, "input 'a' has shape [2, 3], but the model expects [s"),
        ({"a": f4(2), "b": f4(2, 2)}, "input 'a' has shape [2], but the model expects [s"),
        ({"a": f4(0, 2), "b": f4(0, 2)}, "input 'a' is empty (shape [0, 2])"),
        ({"a": f4(2, 2), "b": f4(3, 2)}, "input 'b' has shape [3, 2], where [s"),
    ],
)
async def test_bad_inputs_of_a_program_are_named(tmp_path: Path, arrays: Any, text: str) -> None:
    export(Named(), tmp_path / "model.pt2", torch.ones(4, 2), torch.ones(4, 2))
    assert (await refused(await serve(tmp_path), request(**arrays))).startswith(text)


async def test_bad_inputs_of_what_declares_nothing(tmp_path: Path, linear: Linear) -> None:
    script(linear, tmp_path / "model.pt")
    model = await serve(tmp_path)
    assert model.inputs == model.outputs == []
    for arrays, text in (
        ({"x": f4(2, 4)}, "the inputs ('x' [2, 4]) do not suit the model: mat1 and mat2 shapes cannot be"),
        ({"x": f4(2, 3).astype(np.float64)}, "do not suit the model: mat1 and mat2 must have the same dtype"),
        ({"x": np.array([["a"]])}, "input 'x' has datatype BYTES, but the model expects numbers"),
        ({"y": f4(1, 3), "z": f4(1, 3)}, "the request lacks input 'x' and has unknown inputs 'y', 'z'"),
    ):
        assert text in await refused(model, request(**arrays))
    assert await refused(model, request("other", x=f4(2, 3))) == (
        "the model has no output 'other': it gives 'output-0'"
    )
    tensor = RequestInput(name="x", datatype="FP32", shape=[2, 3], data=[1, 2, 3])
    assert "'x': the tensor has shape [2, 3]" in await refused(model, InferenceRequest(inputs=[tensor]))
    model = await serve(tmp_path, inputs=declare(x=[-1, 3]))
    assert await refused(model, request(x=f4(2, 4))) == (
        "input 'x' has shape [2, 4], but the model expects [?, 3]"
    )
    script(Words(), tmp_path / "model.pt")
    assert "index out of range" in await refused(await serve(tmp_path), request(ids=np.array([9])))


class Normalised(nn.BatchNorm1d):
    def __init__(self) -> None:
        super().__init__(3)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


class Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x, x)


class Strict(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() != 3, "no cubes"
        if x.dim() == 4:
            raise ValueError("neither more")
        return x


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, width = x.shape
        return x.reshape(rows * width)


@pytest.mark.parametrize(
    ("module", "shape", "text"),
    [
        (Normalised, (2, 4), "running_mean should contain 4 elements not 3"),
        (Normalised, (2, 3, 4, 5), "expected 2D or 3D input (got 4D input)"),
        (Recurrent, (1, 2, 3, 3), "LSTM: Expected input to be 2D or 3D, got 4D instead"),
        (Products, (2, 3), "batch1 must be a 3D tensor"),
        (Pair, (2, 3, 4), None),
    ],
)
async def test_odd_ranks(tmp_path: Path, module: type[nn.Module], shape: tuple[int, ...], text: str) -> None:
    """As a script and as a class, whose errors are of other types."""
    script(module().eval(), tmp_path / "model.pt")
    as_script = await refused(await serve(tmp_path), request(**{_input_of(module): f4(*shape)}))
    assert as_script.startswith(f"the inputs ('{_input_of(module)}' {list(shape)}) do not suit the model: ")
    assert text is None or as_script.endswith(text)
    (tmp_path / "model.pt").unlink()
    save_file(module().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "nets.py").write_text(f"from {__name__} import {module.__name__} as Net")
    as_class = await refused(
        await serve(tmp_path, {"module": "nets.Net"}), request(**{_input_of(module): f4(*shape)})
    )
    assert "do not suit the model: " in as_class
    assert text is None or as_class.endswith(text)


def _input_of(module: type[nn.Module]) -> str:
    return "input" if module is Normalised else "x"


@pytest.mark.parametrize(("rank", "text"), [(3, "no cubes"), (4, "neither more")])
async def test_scripts_that_raise(tmp_path: Path, rank: int, text: str) -> None:
    script(Strict(), tmp_path / "model.pt")
    refusal = await refused(await serve(tmp_path), request(x=f4(*[2] * rank)))
    assert refusal == f"the inputs ('x' {[2] * rank}) do not suit the model: {text}"


async def test_faults_of_the_model_stay_its_own(tmp_path: Path, linear: Linear) -> None:
    save_file(linear.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "nets.py").write_text(CODE)
    with pytest.raises(ValueError, match="this model is broken"):
        await (await serve(tmp_path, {"module": "nets.Broken"})).predict(request(x=f4(2, 3)))
    with pytest.raises(TypeError, match="returned a str"):
        await (await serve(tmp_path, {"module": "nets.Odd"})).predict(request(x=f4(2, 3)))
    model = await serve(tmp_path, {"module": "nets.Net"})
    assert model._refusal(RuntimeError("CUDA out of memory. Tried to allocate a tensor of shape")) is None


# --- metadata and promises ---------------------------------------------------------------------------------


async def test_R40_metadata_comes_from_the_program(tmp_path: Path) -> None:
    export(Named(), tmp_path / "model.pt2", torch.ones(4, 2), torch.ones(4, 2))
    metadata = await (await serve(tmp_path)).metadata()
    assert metadata.platform == "pytorch"
    assert described(metadata.inputs) == [("a", "FP32", [-1, 2]), ("b", "FP32", [-1, 2])]
    assert described(metadata.outputs) == [("total", "FP32", [-1, 2]), ("sums", "FP32", [-1])]


async def test_rows_are_independent_if_the_batch_is_of_any_size(tmp_path: Path, linear: Linear) -> None:
    export(linear, tmp_path / "any.pt2", torch.ones(4, 3))
    export(linear, tmp_path / "fixed.pt2", torch.ones(4, 3), batch=None)
    script(linear, tmp_path / "script.pt")
    save_file(linear.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "nets.py").write_text(CODE)
    for file, extra, rows, inline in (
        ("any.pt2", {}, True, True),
        ("any.pt2", {"rows_independent": False}, False, True),
        ("fixed.pt2", {}, False, True),
        ("script.pt", {}, False, True),
        ("script.pt", {"rows_independent": True}, True, True),
        ("model.safetensors", {"module": "nets.Net", "rows_independent": True}, True, False),
    ):
        model = await serve(tmp_path / file, extra)
        assert (promises(model, "rows_independent"), promises(model, "inline")) == (rows, inline)
    assert await refused(await serve(tmp_path / "fixed.pt2"), request(x=f4(2, 3))) == (
        "input 'x' has shape [2, 3], but the model expects [4, 3]"
    )


async def test_a_batch_within_bounds(tmp_path: Path, linear: Linear) -> None:
    export(linear, tmp_path / "model.pt2", torch.ones(4, 3), batch=torch.export.Dim("batch", min=2, max=8))
    model = await serve(tmp_path)
    assert list(await answers(model, request(x=f4(8, 3)))) == ["output-0"]
    text = await refused(model, request(x=f4(9, 3)))
    assert re.fullmatch(
        r"input 'x' has shape \[9, 3\], where \[(s\d+), 3\] is expected, but '\1' may be 2 to 8", text
    )


# --- settings and artefacts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"devise": "cpu"}, "parameters.extra has unknown 'devise'; known are 'device', 'dtype', 'module', "),
        ({"device": "moon"}, "parameters.extra.device: 'moon' cannot be used: "),
        ({"device": "cuda:77"}, "parameters.extra.device: 'cuda:77' cannot be used: "),
        ({"dtype": "int8"}, "parameters.extra: Invalid enum value 'int8' - at `$.dtype`"),
        ({}, "parameters.extra.module: is needed to load the weights in "),
        ({"module": "nets.Missing"}, "parameters.extra.module: 'nets.Missing' cannot be imported: "),
        ({"module": "nets.no_module"}, "'nets.no_module' is no class that extends torch.nn.Module"),
    ],
)
async def test_options_that_make_no_sense(tmp_path: Path, linear: Linear, extra: Any, text: str) -> None:
    save_file(linear.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "nets.py").write_text(CODE)
    with pytest.raises(MLServerError, match=re.escape(text)) as caught:
        await serve(tmp_path, extra)
    assert caught.value.status_code == 422


async def test_dtype_of_an_exported_program(tmp_path: Path, linear: Linear) -> None:
    export(linear, tmp_path / "model.pt2", torch.ones(4, 3))
    with pytest.raises(MLServerError, match="keeps the one that it was exported with"):
        await serve(tmp_path, {"dtype": "float16"})


@pytest.mark.parametrize(
    ("file", "extra", "text"),
    [
        ("model.pt2", {}, ""),
        ("model.pt", {}, ""),
        ("model.safetensors", {"module": "nets.Net"}, "SafetensorError"),
        ("other.safetensors", {"module": "nets.Net"}, "Missing key(s) in state_dict"),
        ("other.safetensors", {"module": "nets.Net", "module_args": {"height": 1}}, "height"),
        ("linear.safetensors", {"module": "nets.Positional"}, "takes 'x' by position alone"),
    ],
)
async def test_an_artefact_that_cannot_be_read(
    tmp_path: Path, linear: Linear, file: str, extra: Any, text: str
) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    save_file(linear.state_dict(), tmp_path / "linear.safetensors")
    if not (tmp_path / file).exists():
        (tmp_path / file).write_bytes(b"not a model")
    path = tmp_path / file
    with pytest.raises(MLServerError, match=re.escape(f"the artefact {path} cannot be read: ")) as caught:
        await serve(path, extra)
    assert caught.value.status_code == 500 and text in str(caught.value)


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"a": x, "b": (x, x + 1)}


async def test_a_program_with_outputs_inside_outputs(tmp_path: Path) -> None:
    export(Nested(), tmp_path / "model.pt2", torch.ones(4, 2))
    with pytest.raises(MLServerError, match="its output 'b' is a tuple, where a tensor was expected"):
        await serve(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
async def test_a_module_that_was_pickled(tmp_path: Path, linear: Linear, zipped: bool) -> None:
    torch.save(linear, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        MLServerError, match=r"weights or a pickled module of PyTorch.*extra\.module"
    ) as caught:
        await serve(tmp_path)
    assert caught.value.status_code == 422


@pytest.mark.parametrize("count", [1, 100])
async def test_the_largest_integers(tmp_path: Path, count: int) -> None:
    script(nn.Identity(), tmp_path / "model.pt")
    model = await serve(tmp_path)
    values = [2**63, *range(1, count)]
    tensor = RequestInput(name="input", shape=[count], datatype="UINT64", data=values)
    (output,) = (await model.predict(InferenceRequest(inputs=[tensor]))).outputs
    assert (output.datatype, list(output.data)) == ("UINT64", values)


async def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidModelURI, match=re.escape("holds none of model.pt2, model.pt, model.safetensors")
    ):
        await serve(tmp_path)


def test_version() -> None:
    assert __version__
