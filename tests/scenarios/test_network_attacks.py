"""What somebody may put into a network's original, with digests that fit: each refused unrun."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import h5py
import keras
import numpy as np
import pytest
import torch
from torch import nn

import bascule
from bascule.bundle.disk import limits
from bascule.bundle.originals import aten, keras_archive
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import ModelFailed, Untrusted

ROWS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def sealed_torch(packed):
    torch.manual_seed(0)
    return packed("attacked-torch", nn.Linear(3, 2), ROWS)


@pytest.fixture(scope="module")
def sealed_keras(packed):
    layers = [keras.Input((3,)), keras.layers.Dense(2, activation="relu")]
    return packed("attacked-keras", keras.Sequential(layers), ROWS)


def resealed(sealed, to, name, data):
    """A copy of a bundle with another file in it, and a manifest that agrees."""
    bundle = shutil.copytree(sealed, to)
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    manifest["files"][name] = {"sha256": sha256_bytes(data), "bytes": len(data)}
    (bundle / "bundle.json").write_bytes(canonical_json(manifest))
    return bascule.load(bundle)


def with_changed_graph(sealed, tmp_path, change):
    data = (sealed / aten.FILE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    graph = json.loads(header["__metadata__"]["graph"])
    change(graph)
    header["__metadata__"]["graph"] = json.dumps(graph)
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    made = len(written).to_bytes(8, "little") + written + data[8 + size :]
    return resealed(sealed, tmp_path / "bundle", aten.FILE, made)


# -- calls of Core ATen --------------------------------------------------------------------------


@pytest.fixture
def with_graph(sealed_torch, tmp_path):
    """`with_graph(change)`: the bundle with another list of calls."""

    def changed(change):
        return with_changed_graph(sealed_torch, tmp_path, change)

    return changed


@pytest.mark.parametrize(
    "op",
    [
        "torch.serialization.os.system",
        "os.system",
        "aten.from_file.default",
        "aten.save.default",
        "aten.add_.Tensor",
        "aten.resize_.default",
        "aten.rand.default",
        "aten.empty.memory_format",
        "aten.__class__.mro",
        "aten.add",
        "prim.device.default",
        "__import__",
        "methodcaller",
    ],
)
def test_a_call_of_what_is_not_core_aten_is_refused(with_graph, tmp_path, op):
    """PyTorch's own reader of exported programs would call the first of these."""

    def change(graph):
        graph["calls"][0] = {"name": "x", "op": op, "args": [f"touch {tmp_path}/ran"]}

    with pytest.raises(Untrusted, match="is none of the operators that a bundle may hold"):
        with_graph(change).original()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"op": "neg", "args": [{"of": "later"}]}, "'later' is used before it is there"),
        ({"op": "neg", "args": [{"dtype": "serialization"}]}, "is not known"),
        ({"op": "neg", "args": [{"class": "os"}]}, "is not known"),
        ({"op": "neg", "args": [{"device": "cuda"}]}, "is not known"),
        (
            {"op": "aten.full.default", "args": [[1 << 20, 1 << 20], 0]},
            "asks for 1,099,511,627,776",
        ),
    ],
    ids=["too early", "no type", "an object", "another device", "fills the memory"],
)
def test_an_argument_that_is_no_value_is_refused(with_graph, call, reason):
    with pytest.raises(Untrusted, match=reason):
        with_graph(lambda graph: graph["calls"].insert(0, {"name": "x", **call})).original()


def test_a_tensor_of_the_size_that_is_allowed_is_not_refused(with_graph):
    def full(length):
        call = {"name": "x", "op": "aten.full.default", "args": [[length], 0]}
        return lambda graph: graph["calls"].insert(0, call)

    with_graph(full(limits.MAX_GROWN_ELEMENTS)).original()


def test_lists_nested_without_end_are_refused(with_graph):
    nested = json.loads("[" * 60 + "]" * 60)
    call = {"name": "x", "op": "neg", "args": [nested]}
    with pytest.raises(Untrusted, match="nested too deep"):
        with_graph(lambda graph: graph["calls"].insert(0, call)).original()


@pytest.mark.parametrize("change", [{"version": 2}, {"inputs": []}, {"outputs": ["gone"]}])
def test_a_list_of_calls_that_does_not_fit_the_bundle_is_refused(with_graph, change):
    with pytest.raises(Untrusted, match=r"model\.safetensors cannot be read"):
        with_graph(lambda graph: graph.update(change)).original()


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}"])
def test_a_header_that_is_none_is_refused(sealed_torch, tmp_path, data):
    bundle = resealed(sealed_torch, tmp_path / "bundle", aten.FILE, data)
    with pytest.raises(Untrusted, match=r"model\.safetensors cannot be read"):
        bundle.original()


def test_a_pickle_of_pytorch_in_its_place_is_refused(sealed_torch, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    buffer = io.BytesIO()
    torch.save({"weight": Runs()}, buffer)
    bundle = resealed(sealed_torch, tmp_path / "bundle", aten.FILE, buffer.getvalue())
    with pytest.raises(Untrusted):
        bundle.original()
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def sealed_reader(packed):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.LSTM(3, 4, batch_first=True)

        def forward(self, given):
            read, _ = self.steps(given.reshape(-1, 3, 1).repeat(1, 1, 3))
            return read[:, -1]

    torch.manual_seed(0)
    return packed("attacked-reader", Reader(), ROWS)


_SETTINGS = ["input", "hx", "params", "has_biases", "num_layers", "dropout", "train", "both"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": lambda _: True}, "draws random numbers where train is on"),
        ({"num_layers": lambda _: 1 << 40}, "another number of weights"),
        ({"num_layers": lambda _: 0}, "another number of weights"),
        ({"num_layers": lambda _: -1}, "another number of weights"),
        ({"params": lambda given: given[2][:2]}, "another number of weights"),
        ({"params": lambda given: given[2][::-1]}, "weights .* are of other shapes"),
        ({"params": lambda given: [given[2][0]] * 4}, "weights .* are of other shapes"),
        ({"hx": lambda given: given[1][:1]}, "another state than"),
        ({"hx": lambda given: [given[0]] * 2}, "of other shapes"),
        ({"input": lambda given: {"of": given[1][0]["of"]}}, "weights|state|failed"),
        ({"has_biases": lambda _: False}, "another number of weights"),
        ({"both": lambda _: True}, "another number of weights"),
    ],
    ids=[
        "random", "layers without end", "no layers", "fewer than none", "weights cut",
        "weights turned round", "one weight", "state cut", "another state", "state for rows",
        "no biases", "both ways",
    ],
)  # fmt: skip
def test_a_recurrent_step_that_would_leave_its_memory_is_refused(
    sealed_reader, tmp_path, changes, reason
):
    """PyTorch ends the process for some of these."""

    def change(graph):
        (call,) = [call for call in graph["calls"] if call["op"] == "aten.lstm.input"]
        for name, value in changes.items():
            call["args"][_SETTINGS.index(name)] = value(call["args"])

    with pytest.raises((Untrusted, ModelFailed), match=reason):
        with_changed_graph(sealed_reader, tmp_path, change).original().run({"given": ROWS})


def test_attention_that_would_divide_by_its_heads_is_refused():
    """The process would end by a signal."""
    listed = aten.read_calls(attention_of_no_heads(), "it", 1, 1)
    with pytest.raises(ValueError, match="attention has no heads"):
        listed.answers([torch.zeros(2, 2, 5, 4)], listed.tensors)


def attention_of_no_heads():
    given = {"of": "given"}
    none = {"name": "none", "op": "aten.slice.Tensor", "args": [given, 1, 0, 0]}
    name, options = "aten.scaled_dot_product_attention.default", {"enable_gqa": True}
    call = {"name": "x", "op": name, "args": [given] + [{"of": "none"}] * 2, "kwargs": options}
    graph = {
        "version": 1, "inputs": ["given"], "tensors": {}, "calls": [none, call], "outputs": ["x"],
    }  # fmt: skip
    header = json.dumps({"__metadata__": {"graph": json.dumps(graph)}}).encode()
    return len(header).to_bytes(8, "little") + header


# -- archives of Keras ---------------------------------------------------------------------------


@pytest.fixture
def with_archive(sealed_keras, tmp_path):
    """`with_archive(change)`: the bundle with other members; `change` is handed them by name."""

    def changed(change, kind=zipfile.ZIP_STORED):
        with zipfile.ZipFile(sealed_keras / keras_archive.FILE) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        change(parts)
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", kind) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        return resealed(sealed_keras, tmp_path / "bundle", keras_archive.FILE, made.getvalue())

    return changed


@pytest.fixture
def with_layer(with_archive):
    """`with_layer(layer)`: the bundle with another last layer."""

    def changed(layer):
        def change(parts):
            config = json.loads(parts["config.json"])
            config["config"]["layers"][-1] = layer
            parts["config.json"] = json.dumps(config).encode()

        return with_archive(change)

    return changed


def test_an_archive_that_is_only_written_anew_is_taken(with_archive):
    assert with_archive(lambda parts: None).original().run({"input": ROWS})["output"].shape == (
        8,
        2,
    )


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}},
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}},
        {
            "module": "keras.layers",
            "class_name": "StringLookup",
            "config": {"vocabulary": "/etc/passwd"},
        },
        {"module": "os", "class_name": "system", "config": "touch ran"},
        {"module": "builtins", "class_name": "eval", "config": "1"},
        {"module": "keras.utils", "class_name": "get_file", "config": {}},
        {"module": "keras.config", "class_name": "enable_unsafe_deserialization", "config": {}},
        {"module": "keras", "class_name": "utils.get_file", "config": {}},
        {"module": None, "class_name": "__lambda__", "config": {"value": ""}},
        {"module": None, "class_name": "Dense", "registered_name": "own>Dense", "config": {}},
        {"module": ["keras"], "class_name": "Dense", "config": {}},
    ],
    ids=lambda layer: layer["class_name"],
)
def test_a_configuration_that_names_more_than_layers_is_refused(with_layer, layer, monkeypatch):
    def never(*_, **__):
        raise AssertionError("Keras was asked")

    bundle = with_layer(layer)
    monkeypatch.setattr(keras.saving, "load_model", never)
    with pytest.raises(Untrusted, match=r"model\.keras cannot be read: (?!Keras was asked)"):
        bundle.original()


def test_a_harmful_part_deep_inside_a_layer_is_refused(with_layer):
    inner = {"module": "keras.utils", "class_name": "get_file", "config": {}}
    config = {"units": 2, "kernel_initializer": {"a": [[{"b": inner}]]}}
    with pytest.raises(Untrusted, match=r"keras\.utils\.get_file is not one of Keras' layers"):
        with_layer({"module": "keras.layers", "class_name": "Dense", "config": config}).original()


def _linked(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "x")


def _external(file):
    del file["layers/dense/vars/0"]
    file.create_dataset(
        "layers/dense/vars/0", (3, 2), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(file):
    del file["layers/dense/vars/0"]
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (3, 2))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def _bomb(file):
    file.create_dataset("bomb", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip")


def _declared(file):
    file.create_dataset("declared", (1 << 40,), "f4")


@pytest.mark.parametrize("change", [_linked, _external, _virtual, _bomb, _declared])
def test_weights_that_are_not_inside_the_file_are_refused(with_archive, change):
    def changed(parts):
        buffer = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            change(file)
        parts["model.weights.h5"] = buffer.getvalue()

    with pytest.raises(Untrusted, match="in its weights is no array inside the file"):
        with_archive(changed).original()


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (lambda parts: None, zipfile.ZIP_DEFLATED, "it is compressed"),
        (lambda parts: parts.update({"assets/x": b""}), zipfile.ZIP_STORED, "other files"),
        (lambda parts: parts.update({"../x": b""}), zipfile.ZIP_STORED, "other files"),
        (lambda parts: parts.pop("metadata.json"), zipfile.ZIP_STORED, "other files"),
    ],
    ids=["compressed", "one more", "outside", "one less"],
)
def test_an_archive_of_other_members_is_refused(with_archive, change, kind, reason):
    with pytest.raises(Untrusted, match=reason):
        with_archive(change, kind).original()
