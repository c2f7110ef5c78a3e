"""What a PyTorch module has to be to become a bundle, and what becomes of its names and types."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from functools import partial

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from tests.tiers import first_of
from torch import nn
from torch.nn import functional

import bascule
from bascule.bundle.opening import open_original
from bascule.bundle.originals import aten
from bascule.bundle.programs.child import ChildProgram
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import Invalid, MissingExtra, Unconvertible
from bascule.core.fields import DType, Field
from bascule.packing.compilers.tidying import tidy
from bascule.packing.flavors.saved_calls import write_calls

ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


class Of(nn.Module):
    """A linear step, and whatever a test wants of it; `forward` takes `x`."""

    def __init__(self, then=lambda made: made):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.then = then

    def forward(self, x):
        return self.then(self.linear(x))


@pytest.fixture
def pack(pack):
    """Without the graph of the gradients, which takes seconds and has tests of its own."""
    return partial(pack, explain=False)


@pytest.fixture(scope="module")
def linear(packed):
    """The folder of a linear step, for tests that change nothing in it."""
    return packed("linear", Of(), ROWS)


def fields(bundle):
    return [(f.name, f.dtype, f.shape) for f in bundle.signature.outputs]


# -- names, types and shapes --


Pair = namedtuple("Pair", "mean spread")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "names"),
    first_of(
        [
            (lambda made: (made, made[:, 0]), ["output_0", "output_1"]),
            (lambda made: Pair(made, made.exp()), ["mean", "spread"]),
            (lambda made: {"z": made, "a": made.exp()}, ["z", "a"]),
        ]
    ),
    ids=["tuple", "named tuple", "dict"],
)
def test_outputs_are_called_what_the_module_calls_them(pack, then, names):
    bundle = pack(Of(then), ROWS)
    assert [field.name for field in bundle.signature.outputs] == names
    with torch.no_grad():
        expected = Of(then)(torch.from_numpy(ROWS))
    expected = expected.values() if isinstance(expected, dict) else expected
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(bundle.predict(ROWS)[name], values.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", first_of([torch.float32, torch.float64]))
def test_a_module_keeps_its_precision_and_doubles_are_handed_over_in_it(pack, dtype):
    bundle = pack(Of().to(dtype), ROWS.astype(np.float64))
    known = DType.FP32 if dtype is torch.float32 else DType.FP64
    assert [(f.name, f.dtype, f.shape) for f in bundle.signature.inputs] == [("x", known, (3,))]
    assert fields(bundle) == [("output", known, (2,))]
    assert bundle.manifest.serves == "onnx", bundle.parity.reason


@pytest.mark.slow
def test_a_module_of_several_inputs_takes_them_by_the_names_of_forward(pack):
    class Two(nn.Module):
        def forward(self, left, right, scale=None):
            return left + right if scale is None else (left + right) * scale

    rows = {"right": ROWS, "left": torch.from_numpy(ROWS)}
    bundle = pack(Two(), rows)
    assert [field.name for field in bundle.signature.inputs] == ["left", "right"]
    np.testing.assert_array_equal(bundle.predict(rows)["output"], ROWS + ROWS)
    assert bascule.rebuild(bundle.path, train=rows).same
    scaled = {**rows, "scale": ROWS}
    with_scale = pack(Two(), scaled)
    np.testing.assert_allclose(with_scale.predict(scaled)["output"], 2 * ROWS * ROWS)
    assert bascule.rebuild(with_scale.path, train=scaled).same
    with pytest.raises(Invalid, match="train has no 'left', and the model takes left, right"):
        pack(Two(), {"right": ROWS})
    with pytest.raises(Invalid, match="train has 'centre', and the model takes left, right"):
        pack(Two(), {**rows, "centre": ROWS})
    with pytest.raises(Invalid, match="train is one array, and the model takes left, right"):
        pack(Two(), ROWS)


def test_a_table_becomes_the_matrix_that_a_module_takes(pack):
    table = pd.DataFrame(ROWS.astype(float), columns=["a", "b", "c"])
    bundle = pack(Of(), table)
    assert bundle.signature.columns == ("a", "b", "c")
    shuffled = table[["c", "a", "b"]]
    np.testing.assert_array_equal(bundle.predict(shuffled), bundle.predict(ROWS))
    assert bascule.rebuild(bundle.path, train=table).same


def test_label_and_probabilities_make_a_classifier_that_is_calibrated(pack):
    def then(made):
        shares = made.softmax(1)
        return {"probabilities": shares, "label": shares.argmax(1)}

    bundle = pack(Of(then), ROWS, (ROWS, np.arange(20) % 2))
    assert (bundle.task, bundle.classes) == ("classification", (0, 1))
    assert [field.name for field in bundle.signature.outputs] == ["label", "probabilities"]
    assert "prediction_set" in bundle.predict(ROWS, confidence=0.8)


def test_a_prediction_makes_a_regressor(pack):
    bundle = pack(Of(lambda made: {"prediction": made[:, 0]}), ROWS, (ROWS, ROWS[:, 0]))
    assert bundle.task == "regression"
    assert {"lower", "upper"} <= set(bundle.predict(ROWS, confidence=0.8))


def test_a_missing_number_is_refused(linear):
    with pytest.raises(Invalid, match="missing"):
        bascule.load(linear).predict(np.full((1, 3), np.nan))


# -- what the module is left as, and what is kept of it --


@pytest.mark.slow
def test_each_part_of_a_module_keeps_the_mode_that_it_was_in(pack):
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module.train()
    module[2].eval()
    bundle = pack(module, ROWS)
    assert [part.training for part in module.modules()] == [True, True, True, False, True]
    assert bundle.parity.passed, "dropout would make each answer another"


@pytest.mark.slow
def test_a_tensor_that_parts_share_is_kept_once(pack):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.there = nn.Linear(64, 64, bias=False)
            self.back = nn.Linear(64, 64, bias=False)
            self.back.weight = self.there.weight

        def forward(self, x):
            return self.back(self.there(x).tanh())

    rows = np.zeros((4, 64), np.float32)
    saved = (pack(Tied(), rows).path / aten.FILE).read_bytes()
    assert 64 * 64 * 4 < len(saved) < 2 * 64 * 64 * 4


def test_nothing_of_the_machine_is_left_in_a_program(linear):
    program = (linear / "programs" / "onnx.onnx").read_bytes()
    for trace in (b".py", b"/home", b"torch", b"stack"):
        assert trace not in program.replace(b"pytorch", b"")


@pytest.mark.slow
def test_lists_of_lengths_and_shapes_in_steps_are_kept(pack):
    def then(made):
        rows, width = made.shape
        joined = torch.cat([made, torch.full((rows, 1), float("inf"))], 1).reshape(rows, width + 1)
        return torch.where(joined.isinf(), torch.zeros_like(joined), joined).repeat(1, 2)

    bundle = pack(Of(then), ROWS)
    np.testing.assert_allclose(
        bundle.predict(ROWS)["output"], bundle.original().run({"x": ROWS})["output"], atol=1e-6
    )


# -- what cannot be packed --


def attended(made, **options):
    return functional.scaled_dot_product_attention(*[made[:, None]] * 3, **options)[:, 0]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x):
        self.asked += 1
        return x * self.asked


@pytest.mark.parametrize(
    ("module", "reason"),
    first_of(
        [
            (
                Of(lambda m: m if m.sum() > 0 else -m),
                "PyTorch cannot export Of for any number of rows",
            ),
            (Of(lambda m: m.reshape(4, 2) * 2), "PyTorch cannot export Of for any number of rows"),
            (Of(lambda m: m + torch.rand_like(m)), "rand.* is none of the operators"),
            (Of(lambda m: attended(m, dropout_p=0.5)), "random numbers where dropout_p is on"),
            (Counting(), "changes itself or its inputs"),
        ],
        2,
    ),
    ids=["values decide", "rows are fixed", "random", "random attention", "state"],
)
def test_a_module_that_is_not_the_same_for_every_request_is_refused(pack, tmp_path, module, reason):
    with pytest.raises(Unconvertible, match=reason):
        pack(module, ROWS[:4], serve_original=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (lambda m: m.sum(), r"output of shape \[\] for 4 rows"),
        (lambda m: m.T, r"output of shape \[2, 4\] for 4 rows"),
        (lambda m: m @ m.T, r"output of shape \[1, 1\] here, and \['rows', 4\] for other rows"),
        (lambda m: {"x": m}, "'x', which is the name of an input"),
        (lambda m: (m, [m]), "list for output_1, and tensors are supported"),
        (lambda m: {}, "answers nothing"),
        (lambda m: m.nothing, "does not answer for its training rows"),
    ],
    ids=[
        "no rows",
        "rows elsewhere",
        "rows by rows",
        "name of an input",
        "nested",
        "nothing",
        "raises",
    ],
)
def test_an_answer_that_is_no_rows_of_tensors_is_refused(pack, then, reason):
    with pytest.raises(Invalid, match=reason):
        pack(Of(then), ROWS[:4])


def test_rows_are_needed_and_text_is_refused(pack):
    with pytest.raises(Invalid, match="train is missing"):
        pack(Of(), None)
    with pytest.raises(Invalid, match="x holds text"):
        pack(Of(), {"x": ["a", "b"]})


def test_torchscript_is_refused(pack):
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit.script"):
        scripted = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(Invalid, match="TorchScript"):
        pack(scripted, ROWS)


def test_an_original_without_a_form_in_onnx_is_served_by_a_process_of_its_own(pack):
    class Furthest(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x, p=3).amax((1, 2))

    rows = np.random.default_rng(0).normal(size=(8, 4, 4)).astype(np.float32)
    with pytest.raises(Unconvertible, match="PyTorch cannot write the module as ONNX") as refused:
        pack(Furthest(), rows)
    assert "serve_original=True" in refused.value.hint
    bundle = pack(Furthest(), rows, serve_original=True)
    assert bundle.manifest.serves == "original"
    assert bundle.parity.reason.startswith("PyTorch cannot write the module as ONNX")
    with torch.no_grad():
        expected = Furthest()(torch.from_numpy(rows)).numpy()
    program = open_original(bundle.path, bundle.manifest, isolated=True)
    try:
        assert isinstance(program, ChildProgram)
        np.testing.assert_allclose(program.run({"x": rows})["output"], expected, rtol=1e-6)
    finally:
        program.close()


def test_without_pytorch_the_original_says_how_to_install_it(linear, monkeypatch):
    bundle = bascule.load(linear)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert bundle.predict(ROWS)["output"].shape == (20, 2)
    with pytest.raises(MissingExtra, match="torch is not installed") as refused:
        bundle.original()
    assert refused.value.hint == "pip install 'bascule[torch]'"


def test_without_the_exporter_pack_says_how_to_install_it(pack, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match="onnxscript is not installed") as refused:
        pack(Of(), ROWS)
    assert refused.value.hint == "pip install 'bascule[torch]'"


# -- tidying --


def test_a_graph_whose_names_collide_is_renamed_as_a_whole(pack):
    """Inputs and outputs that are called like values inside the graph, also in a branch."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])

    branches = [
        helper.make_graph([helper.make_node(op, ["a"], [f"v{at}"])], op, [], [value(f"v{at}")])
        for at, op in enumerate(("Neg", "Abs"))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["a"], ["total"], keepdims=0),
            helper.make_node("Less", ["total", "zero"], ["is_less"]),
            helper.make_node(
                "If", ["is_less"], ["b"], then_branch=branches[0], else_branch=branches[1]
            ),
        ],
        "g",
        [value("a")],
        [value("b"), value("a")],
        [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data = tidy(
        model, (Field("v1", DType.FP32),), (Field("zero", DType.FP32), Field("a", DType.FP32))
    )
    made = onnx.load_from_string(data)
    onnx.checker.check_model(made, full_check=True)
    given = np.array([1.0, -3.0], np.float32)
    found = ReferenceEvaluator(made).run(None, {"v1": given})
    np.testing.assert_array_equal(found[0], -given)
    np.testing.assert_array_equal(found[1], given)


def test_the_saved_form_names_calls_and_no_code(linear):
    data = (linear / aten.FILE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    graph = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["graph"])
    assert [call["op"] for call in graph["calls"]] == ["aten.linear.default"]
    assert len(graph["tensors"]) == 2


# -- what is kept whole, and packed again --


class Reading(nn.Module):
    """Reads words one after the other, and weighs them."""

    def __init__(self, of=nn.LSTM, **options):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, 8)
        self.steps = of(8, 8, batch_first=True, dropout=0.5, num_layers=2, **options)
        self.weigh = nn.MultiheadAttention(self.width, 2, batch_first=True)

    @property
    def width(self):
        return 16 if self.steps.bidirectional else 8

    def forward(self, words):
        read, _ = self.steps(self.words(words))
        weighed, _ = self.weigh(read, read, read, need_weights=False)
        return {"prediction": weighed.mean((1, 2))}


WORDS = np.random.default_rng(0).integers(0, 9, (20, 6))


BOTH_WAYS = {"bidirectional": True, "bias": False}


@pytest.mark.parametrize(
    ("of", "options"),
    first_of([(nn.LSTM, {}), (nn.GRU, BOTH_WAYS), (nn.LSTM, BOTH_WAYS), (nn.GRU, {})]),
    ids=str,
)
def test_a_recurrent_step_and_attention_are_one_call_each(pack, of, options):
    bundle = pack(Reading(of, **options), WORDS, (WORDS, np.zeros(20)))
    data = (bundle.path / aten.FILE).read_bytes()
    read = aten.read_calls(data, "it", 1, 1)
    assert write_calls(read) == data
    calls = [call.op for call in read.calls]
    assert calls.count(f"aten.{of.__name__.lower()}.input") == 1
    assert calls.count("aten.scaled_dot_product_attention.default") == 1
    assert len(calls) < 40, "a step for each word would be dozens more"
    program = onnx.load(bundle.path / "programs" / "onnx.onnx")
    assert sum(node.op_type == of.__name__ for node in program.graph.node) == 2, "one a layer"
    np.testing.assert_allclose(
        bundle.original().run({"words": WORDS})["prediction"],
        bundle.predict(WORDS)["prediction"],
        rtol=1e-5,
    )
    assert bascule.rebuild(bundle.path, train=WORDS).same


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("both_ways", [False, True])
def test_an_lstm_that_answers_less_than_it_keeps_is_said_in_smaller_steps(pack, both_ways):
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.LSTM(
                4, 6, num_layers=2, proj_size=3, batch_first=True, bidirectional=both_ways
            )

        def forward(self, x):
            return self.steps(x)[0][:, -1]

    series = np.random.default_rng(0).normal(size=(20, 5, 4)).astype(np.float32)
    bundle = pack(Projected(), series)
    assert bundle.parity.passed
    assert bundle.manifest.programs
    assert bascule.rebuild(bundle.path, train=series).same


@pytest.mark.slow
def test_an_original_that_is_served_is_rebuilt_with_what_it_was_calibrated_on(pack):
    """The list of calls may round otherwise than the module, and it is the list that answers."""

    class Furthest(nn.Module):
        def forward(self, x):
            points = x.reshape(-1, 4, 4)
            spread = functional.layer_norm(torch.cdist(points, points, p=3).sum(1), (4,))
            return {"prediction": spread.softmax(1).amax(1)}

    rows = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    bundle = pack(Furthest(), rows, (rows, np.linspace(0, 1, 64)), serve_original=True)
    assert bundle.manifest.serves == "original"
    assert bundle.calibration is not None
    assert bascule.rebuild(bundle.path, train=rows).same


def test_another_training_row_is_refused(linear):
    changed = ROWS.copy()
    changed[7, 1] += 1
    with pytest.raises(Invalid, match="train rows are not those that the bundle was packed with"):
        bascule.rebuild(linear, train=changed)


@pytest.mark.parametrize(
    ("forge", "differs"),
    first_of(
        [
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "programs/onnx.onnx"),
            (lambda data: with_a_note(data), aten.FILE),
        ]
    ),
    ids=["a tensor", "what no call needs"],
)
def test_an_original_that_was_changed_is_told(linear, tmp_path, forge, differs):
    """With digests that fit: somebody sealed another original beside the program."""
    bundle = bascule.load(shutil.copytree(linear, tmp_path / "forged"))
    said = bundle.statements()
    data = forge((bundle.path / aten.FILE).read_bytes())
    (bundle.path / aten.FILE).write_bytes(data)
    manifest = json.loads((bundle.path / "bundle.json").read_bytes())
    manifest["files"][aten.FILE] = {"sha256": sha256_bytes(data), "bytes": len(data)}
    (bundle.path / "bundle.json").write_bytes(canonical_json(manifest))
    forged = bascule.load(bundle.path)

    rebuilt = bascule.rebuild(forged.path, train=ROWS, statements=said)

    assert not rebuilt.same
    assert differs in [difference.what for difference in rebuilt.differences]


def with_a_note(data):
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["note"] = "trust me"
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data[8 + size :]
