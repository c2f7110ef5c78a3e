"""Graphs of a few bytes that would take the runtime all time, or all memory, to open."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle.programs.guard import check_graph
from bascule.bundle.programs.onnx import open_session
from bascule.core.errors import Untrusted

OWN = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
node = helper.make_node


def model(*nodes, initializers=(), functions=()):
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(initializers),
    )
    return helper.make_model(made, opset_imports=OWN, functions=list(functions), ir_version=9)


def const(value, name, dtype=np.int64):
    return numpy_helper.from_array(np.array(value, dtype), name)


def constant(name, value, dtype=np.int64):
    return node("Constant", [], [name], value=const(value, name, dtype))


def function(name, *nodes):
    return helper.make_function("own", name, ["a"], ["b"], list(nodes), OWN)


def call(name, source, target):
    return node(name, [source], [target], domain="own")


def refused(made, match):
    started = time.process_time()
    with pytest.raises(Untrusted, match=match):
        open_session(made.SerializeToString(), "p.onnx")
    assert time.process_time() - started < 2.0


# -- functions --


def doubling(levels):
    """Functions of which each calls the one before twice."""
    last = function("f0", node("Identity", ["a"], ["b"]))
    return [last] + [
        function(
            f"f{level}", call(f"f{level - 1}", "a", "c"), call(f"f{level - 1}", "c", "b")
        )
        for level in range(1, levels + 1)
    ]  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
def test_functions_that_double_at_every_level_are_refused_unexpanded(order):
    made = model(call("f30", "x", "y"), functions=doubling(30)[::order])
    refused(made, r"p\.onnx grows to more than 5,000,000 operators by its functions")


@pytest.mark.parametrize("levels", [15, 20])
def test_functions_that_take_the_runtime_minutes_to_inline_are_refused(levels):
    made = model(call(f"f{levels}", "x", "y"), functions=doubling(levels))
    assert len(made.SerializeToString()) < 2_500
    refused(made, "over 20,000 operators, or kilobytes of them, copied by functions")


def test_large_constants_that_functions_repeat_count_by_their_size():
    heavy = function(
        "f0", constant("w", np.ones(250_000), np.float32), node("Identity", ["a"], ["b"])
    )
    made = model(call("f6", "x", "y"), functions=[heavy, *doubling(6)[1:]])
    refused(made, "kilobytes of them, copied by functions")


def test_large_attributes_that_functions_copy_count_by_their_size():
    own = helper.make_function(
        "own", "f", ["a"], ["b"],
        [*(helper.make_node("Constant", [], [f"w{n}"]) for n in range(50)),
         node("Identity", ["a"], ["b"])], OWN, ["value"],
    )  # fmt: skip
    for constant_node in own.node[:50]:
        attribute = constant_node.attribute.add()
        attribute.name, attribute.ref_attr_name = "value", "value"
        attribute.type = onnx.AttributeProto.TENSOR
    heavy = const(np.ones(250_000), "v", np.float32)
    made = model(node("f", ["x"], ["y"], domain="own", value=heavy), functions=[own])
    refused(made, "kilobytes of them, copied by functions")


def test_a_graph_that_is_given_to_a_function_is_refused():
    graph = helper.make_graph([], "t", [], [helper.make_tensor_value_info("x", 1, None)])
    given = node("f0", ["x"], ["y"], domain="own", body=graph)
    refused(model(given, functions=doubling(0)), "gives a graph to the function f0")


def test_calls_inside_branches_and_loops_of_functions_count():
    branch = helper.make_graph(
        [call("f20", "a", "t")], "t", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    inner = function(
        "choose", constant("c", True, bool),
        node("If", ["c"], ["b"], then_branch=branch, else_branch=branch),
    )  # fmt: skip
    made = model(
        *(call("choose", "x", f"y{i}") for i in range(3)), call("choose", "x", "y"),
        functions=[*doubling(20), inner],
    )  # fmt: skip
    refused(made, "grows to more than")


@pytest.mark.parametrize(
    "functions",
    [
        [function("f", call("f", "a", "b"))],
        [function("f", call("g", "a", "b")), function("g", call("f", "a", "b"))],
        [function("f", node("Add", ["a", "a"], ["c"]), call("g", "c", "b")),
         function("g", constant("s", [1, 2]), node("Expand", ["a", "s"], ["c"]),
                  call("f", "c", "b"))],
    ],
    ids=["itself", "each other", "with other sizes"],
)  # fmt: skip
def test_functions_that_call_themselves_are_refused(functions):
    refused(model(call("f", "x", "y"), functions=functions), "a function [fg] that calls itself")


def test_functions_nested_without_end_are_refused():
    chain = [function("f0", node("Identity", ["a"], ["b"]))] + [
        function(f"f{i}", call(f"f{i - 1}", "a", "b")) for i in range(1, 500)
    ]
    refused(model(call("f499", "x", "y"), functions=chain), "nests calls of functions")


def test_a_function_called_with_constants_of_a_thousand_sizes_is_judged_quickly():
    body = [node("Add", ["a", "a"], ["t0"])]
    body += [node("Add", [f"t{i}", f"t{i}"], [f"t{i + 1}"]) for i in range(10)]
    body.append(node("Identity", ["t10"], ["b"]))
    calls = [call("f", f"w{i}", f"z{i}") for i in range(1000)]
    weights = [const([1.0] * (i + 1), f"w{i}", np.float32) for i in range(1000)]
    data = model(
        *calls, node("Identity", ["x"], ["y"]), initializers=weights,
        functions=[function("f", *body)],
    ).SerializeToString()  # fmt: skip
    started = time.process_time()
    assert check_graph(data, "p.onnx") is False
    assert time.process_time() - started < 2.0


def test_an_honest_function_is_taken_and_runs():
    made = model(call("f3", "x", "y"), functions=doubling(3))
    session = open_session(made.SerializeToString(), "p.onnx")
    assert session.run(None, {"x": np.ones((2, 4), np.float32)})[0].shape == (2, 4)


# -- loops --


def loop(limit, *body, cond_out="go", cond="true", initializers=(), inner=()):
    """A loop whose body hands on the rows; `cond_out` is what decides whether it goes on."""
    info = helper.make_tensor_value_info
    inside = helper.make_graph(
        [*body, node("Identity", ["before"], ["after"]), *inner],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("before", TensorProto.FLOAT, None)],
        [info(cond_out, TensorProto.BOOL, []), info("after", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return model(
        node("Loop", [limit, cond, "x"], ["y"], body=inside),
        initializers=[const(True, "true", bool), *initializers],
    )


HUGE = const(2**62, "m")
THROUGH = [node("Identity", ["go"], ["on"])]
TRUE = [constant("on", True, bool)]
BOTH = [node("Or", ["go", "true"], ["c"]), node("Not", ["c"], ["d"]), node("Not", ["d"], ["on"])]
CAST = [constant("one", 1), node("Cast", ["one"], ["on"], to=TensorProto.BOOL)]


@pytest.mark.parametrize("body", [THROUGH, TRUE, BOTH, CAST], ids=["same", "true", "or", "cast"])
@pytest.mark.parametrize("cond", ["true", ""])
def test_a_loop_that_nothing_ends_is_refused(body, cond):
    refused(loop("", *body, cond_out="on", cond=cond), "a loop that nothing ends")
    refused(loop("m", *body, cond_out="on", cond=cond, initializers=[HUGE]), "100,000,000 steps")


def test_a_count_that_is_computed_of_constants_is_a_constant():
    made = loop("m", *TRUE, cond_out="on")
    million = const(10**6, "million")
    made.graph.initializer.append(million)
    made.graph.node.insert(0, node("Mul", ["million", "million"], ["k"]))
    made.graph.node.insert(1, node("Identity", ["k"], ["m"]))
    refused(made, "steps")


def test_a_count_may_stand_in_a_constant_node():
    made = loop("m", *TRUE, cond_out="on")
    made.graph.node.insert(0, node("Constant", [], ["m"], value_int=2**62))
    refused(made, "steps")


def test_loops_inside_loops_are_multiplied():
    info = helper.make_tensor_value_info
    graph = None
    for depth in range(5):
        step = node("Identity", ["before"], ["after"])
        if graph is not None:
            step = node("Loop", ["m", "true", "before"], ["after"], body=graph)
        graph = helper.make_graph(
            [constant(f"on{depth}", True, bool), step], f"b{depth}",
            [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
             info("before", TensorProto.FLOAT, None)],
            [info(f"on{depth}", TensorProto.BOOL, []), info("after", TensorProto.FLOAT, None)],
        )  # fmt: skip
    made = model(
        node("Loop", ["m", "true", "x"], ["y"], body=graph),
        initializers=[const(True, "true", bool), const(1000, "m")],
    )
    refused(made, "steps")


@pytest.mark.parametrize("limit", [0, 1000])
def test_an_honest_loop_is_taken_and_runs(limit):
    made = loop("m", *TRUE, cond_out="on", initializers=[const(limit, "m")])
    session = open_session(made.SerializeToString(), "p.onnx")
    assert session.run(None, {"x": np.ones((2, 4), np.float32)})[0].shape == (2, 4)


def test_a_loop_that_its_rows_end_is_taken():
    """As exporters write `while`: the largest count, and a condition that is computed."""
    body = [
        node("ReduceMax", ["before"], ["most"], keepdims=0), constant("nine", 9.0, np.float32),
        node("Less", ["most", "nine"], ["on"]),
    ]  # fmt: skip
    check_graph(
        loop(
            "m", *body, cond_out="on", initializers=[const(2**63 - 1, "m")]
        ).SerializeToString(),
        "p.onnx",
    )  # fmt: skip


def scan(state, scanned, *before, initializers=()):
    """A scan whose state is handed on, with so many small steps as `scanned` is long."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["s"], ["t"]), node("Identity", ["one"], ["out"])], "body",
        [info("s", TensorProto.FLOAT, None), info("one", TensorProto.FLOAT, None)],
        [info("t", TensorProto.FLOAT, None), info("out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return model(
        *before,
        node("Scan", [state, scanned], ["end", "y"], body=body, num_scan_inputs=1),
        initializers=initializers,
    )


def test_a_scan_over_a_constant_that_is_grown_is_refused():
    refused(scan("x", "w", *filled("w", 100_000_000)), "steps")


def test_a_scan_over_rows_with_a_large_constant_as_its_state_is_taken():
    """As neighbours are searched: the state is every row of the training data."""
    training = const(np.zeros((50_000, 300)), "w", np.float32)
    check_graph(scan("w", "x", initializers=[training]).SerializeToString(), "p.onnx")
    check_graph(scan("x", "w", initializers=[training]).SerializeToString(), "p.onnx")


# -- constants that the runtime would compute when it opens the graph --


def opened_s(made):
    """How long it takes, and that no more than a little memory is taken."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    open_session(made.SerializeToString(), "p.onnx")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    return time.perf_counter() - started


def filled(name, *shape):
    return [constant(f"{name}_s", list(shape)), node("ConstantOfShape", [f"{name}_s"], [name])]


@pytest.mark.parametrize(
    "nodes",
    [
        [*filled("w", 4096, 4096)]
        + [node("MatMul", ["w" if i == 0 else f"w{i}", "w"], [f"w{i + 1}"]) for i in range(20)],
        [*filled("a", 200_000, 1), *filled("b", 1, 200_000), node("Add", ["a", "b"], ["c"])],
        [
            constant("k", [100_000]), constant("z", [0]), node("Sub", ["k", "z"], ["k1"]),
            node("Concat", ["k1", "k1"], ["s"], axis=0), node("ConstantOfShape", ["s"], ["c"]),
        ],
        [*filled("w", 16_000_000)]
        + [node("Sqrt", ["w" if i == 0 else f"w{i}"], [f"w{i + 1}"]) for i in range(300)],
    ],
    ids=["products", "broadcast", "computed shape", "many steps"],
)  # fmt: skip
def test_constants_that_would_take_long_are_not_computed_when_a_graph_is_opened(nodes):
    last = nodes[-1].output[0]
    use = [node("Size", [last], ["size"]), node("Cast", ["size"], ["f"], to=1)]
    assert opened_s(model(*nodes, *use, node("Add", ["x", "f"], ["y"]))) < 2.0


def test_a_function_called_with_a_constant_is_looked_into_with_its_size():
    square = function("square", node("MatMul", ["a", "a"], ["b"]))
    calls = [call("square", "w" if i == 0 else f"w{i}", f"w{i + 1}") for i in range(20)]
    made = model(
        *filled("w", 4096, 4096), *calls, node("ReduceMax", ["w20"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["y"]), functions=[square],
    )  # fmt: skip
    assert opened_s(made) < 2.0


def test_small_constants_are_computed_when_a_graph_is_opened():
    made = model(
        node("Transpose", ["w"], ["wt"]), node("Mul", ["wt", "k"], ["v"]),
        node("MatMul", ["x", "v"], ["y"]),
        initializers=[const(np.ones((3, 4)), "w", np.float32), const(2.0, "k", np.float32)],
    )  # fmt: skip
    assert check_graph(made.SerializeToString(), "p.onnx") is True
