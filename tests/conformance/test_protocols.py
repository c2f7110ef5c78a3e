"""What holds for every protocol of the server.

A protocol in `bascule.serving.protocols.PROTOCOLS` is found here by itself; the forms in which its
clients ask are in `protocols/NAME.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from dataclasses import replace
from typing import get_args

import conformance_protocol as protocol
import pytest
from conformance_protocols import FORMS, GOLDEN, without_made_id, write_golden
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.tiers import examples

from bascule.bundle.disk.folder import read_manifest
from bascule.bundle.extras import open_extras
from bascule.bundle.opening import open_program
from bascule.core.errors import KINDS, ModelFailed
from bascule.serving.protocols.chosen import PROTOCOL_NAMES
from bascule.serving.protocols.table import PROTOCOLS
from bascule.serving.specs import ModelSpec
from bascule.serving.transports.routes import Action
from bascule.serving.transports.statuses import STATUS_OF
from bascule.serving.workers.loaded_models import describe
from bascule.settings import ProtocolName

ALWAYS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FORM_IDS = list(FORMS)


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A worker with a program that is a formula."""
    made = protocol.Inside(
        tmp_path_factory.mktemp("inside"), protocol.Fixed(), protocol.Fixed.signature
    )
    yield made
    made.close()


class Granting:
    """Grants whatever callers want to have changed."""

    def load(self, name, place, settle):
        settle(None)

    def unload(self, name, settle):
        settle(None)


@pytest.fixture(scope="module")
def multi_model(tmp_path_factory):
    """The same, where callers load and unload models."""
    folder = tmp_path_factory.mktemp("multi-model")
    made = protocol.Inside(folder, protocol.Fixed(), protocol.Fixed.signature, wishes=Granting())
    yield made
    made.close()


def described(path, loop):
    held = protocol.BufferBudget(1 << 30)
    return describe(ModelSpec("m", "1", path), protocol.Limits(), None, loop, held)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """`opened(bundle)`: a worker with a packed model."""
    made = []

    def open_bundle(path):
        folder = tmp_path_factory.mktemp("opened")
        loop = asyncio.new_event_loop()
        loaded = describe(
            ModelSpec("m", "1", path), protocol.Limits(), None, loop, protocol.BufferBudget(1 << 30)
        )
        program = open_program(path, read_manifest(path), name=loaded.program.name)
        loop.close()
        made.append(protocol.Inside(folder, program, loaded.signature, example=loaded.example))
        return made[-1]

    yield open_bundle
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def matrix(opened, cancer_bundle):
    return opened(cancer_bundle)


@pytest.fixture(scope="module")
def frame(opened, table_bundle):
    return opened(table_bundle)


# -- every protocol is here --


def test_every_protocol_has_forms_and_a_name_that_settings_know():
    assert tuple(PROTOCOLS) == PROTOCOL_NAMES == get_args(ProtocolName)
    assert {form.partition("/")[0] for form in FORMS} == set(PROTOCOLS) - {"openai"}


@pytest.mark.parametrize("served", ["inside", "multi_model"])
def test_every_route_says_what_it_does_and_an_inference_to_which_model_and_where_it_counts(
    served, request
):
    inside = request.getfixturevalue(served)
    for path, methods in inside.routes.items():
        for route in methods.values():
            assert route.action in get_args(Action), path
            if route.action == "infer":
                assert (route.model, route.series) == ("m", inside.model.series), path
            else:
                assert route.series is None, path


# -- the same input, the same bits ---------------------------------------------------------------

NUMBERS = st.floats(-1e9, 1e9) | st.integers(-(10**6), 10**6).map(float)
MATRICES = st.lists(st.lists(NUMBERS, min_size=30, max_size=30), min_size=1, max_size=3)
MAYBE = st.none() | st.floats(-1e9, 1e9)
TABLES = st.lists(
    st.tuples(
        st.sampled_from(["AA", "BB", "CC", "é", "a b", "1"]),
        st.sampled_from(["EWR", "JFK"]),
        st.integers(1, 12),
        MAYBE,
        st.floats(-1e9, 1e9),
    ).map(list),
    min_size=1,
    max_size=4,
)


def all_agree(worker, rows):
    names = [field.name for field in rows.signature.outputs]
    expected = worker.program.run(rows.columns(worker.program.inputs))
    for name, form in FORMS.items():
        request = form.ask(rows)
        if request is None:
            continue
        answer = worker.ask(request)
        assert answer.status == 200, (name, answer.body)
        found = form.read(answer, names)
        assert names[0] in found, name
        for output, values in found.items():
            assert values == expected[output].tolist(), (name, output)


@ALWAYS
@given(values=MATRICES)
def test_a_matrix_gets_the_same_bits_through_every_face(matrix, values):
    all_agree(matrix, protocol.Rows.of(matrix.model.signature, values))


@ALWAYS
@given(values=TABLES)
def test_a_table_gets_the_same_bits_through_every_face(frame, values):
    all_agree(frame, protocol.Rows.of(frame.model.signature, values))


def test_rows_answered_are_counted_alike(inside):
    for form in FORMS.values():
        before = inside.counters.totals()[1]
        inside.ask(form.ask(protocol.FIXED_ROWS))
        after = inside.counters.totals()[1]
        assert after.rows - before.rows == len(protocol.FIXED_ROWS.values)
        assert after.by_status[200] - before.by_status.get(200, 0) == 1


@pytest.mark.parametrize("name", FORM_IDS)
def test_what_a_caller_calls_a_request_comes_back(inside, name):
    form = FORMS[name]
    for called in ("a-17", "é", "b" * 128):
        request = form.ask(replace(protocol.FIXED_ROWS, call_id=called))
        header = "c-" + called[:60].replace("é", "e")
        headers = (*request.headers, f"X-Request-Id: {header}")
        answer = inside.ask(protocol.Request(request.path, request.body, headers))
        assert answer.headers["x-request-id"] == header
        assert form.call_id is None or form.call_id(answer) == called
    assert (form.call_id is None) == (name in BY_ROW)


@pytest.mark.parametrize("name", FORM_IDS)
def test_an_answer_says_by_whom_it_is_where_that_is_not_who_was_asked(tmp_path, name):
    program = protocol.Fixed()
    worker = protocol.Inside(tmp_path, program, program.signature)
    worker.stand_in(protocol.Fixed())
    request = FORMS[name].ask(protocol.FIXED_ROWS)
    own = worker.ask(request)
    program.problem = ValueError("it failed")
    stood_in = worker.ask(request)

    worker.close()
    assert (own.status, stood_in.status) == (200, 200)
    assert "x-answered-by" not in own.headers
    assert stood_in.headers["x-answered-by"] == "m/0"
    names = [field.name for field in program.outputs]
    assert FORMS[name].read(stood_in, names) == FORMS[name].read(own, names)


# -- confidence ----------------------------------------------------------------------------------

ADDS = {"lower", "upper"}
BY_ROW = [name for name in FORMS if not name.startswith("oip/")]


def open_calibrated(folder, path, confidence):
    loop = asyncio.new_event_loop()
    loaded = describe(
        ModelSpec("m", "1", path), protocol.Limits(), None, loop, protocol.BufferBudget(1 << 30)
    )
    program = open_program(path, read_manifest(path), name=loaded.program.name)
    loop.close()
    return protocol.Inside(
        folder,
        program,
        loaded.signature,
        example=loaded.example,
        extras=open_extras(path, read_manifest(path), {"confidence": confidence}),
        confidence=confidence,
    )


@pytest.fixture(scope="module")
def by_default(tmp_path_factory, regressor_bundle):
    """A regressor whose answers have intervals, where nothing is said."""
    made = open_calibrated(tmp_path_factory.mktemp("by_default"), regressor_bundle, 0.9)
    yield made
    made.close()


@pytest.fixture(scope="module")
def on_request(tmp_path_factory, regressor_bundle):
    """A regressor whose answers have intervals where they are asked for."""
    made = open_calibrated(tmp_path_factory.mktemp("on_request"), regressor_bundle, 0.0)
    yield made
    made.close()


@pytest.fixture(params=["by_default", "on_request"])
def calibrated(request):
    return request.getfixturevalue(request.param)


def one_row(worker):
    return protocol.Rows.of(worker.model.signature, [[0.01] * 10])


@pytest.mark.parametrize("name", BY_ROW)
def test_the_default_confidence_is_in_the_answers_of_every_face(calibrated, name):
    """A request that lists its outputs gets those."""
    request = FORMS[name].ask(one_row(calibrated))
    found = FORMS[name].read(calibrated.ask(request), ["prediction"])
    if not isinstance(found, dict):  # by column, of one output
        found = {"prediction": found}

    listed = b'"outputs"' in request.body
    expected = ADDS if calibrated.limits.confidence and not listed else set()
    assert set(found) == {"prediction"} | expected


@pytest.mark.parametrize(
    ("path", "key", "where"),
    [
        ("/invocations", "instances", "params"),
        ("/models/m/invoke", "inputs", "params"),
        ("/vertex/predict", "instances", "parameters"),
        ("/score", "data", "params"),
    ],
)
def test_a_confidence_is_asked_for_where_the_protocol_has_a_place(calibrated, path, key, where):
    def ask(**parameters):
        body = {key: one_row(calibrated).values, where: parameters}
        answer = calibrated.ask(protocol.of_json(path, body))
        if answer.status == 400:
            return error_text_of(answer)
        (row,) = answer.json if isinstance(answer.json, list) else answer.json["predictions"]
        return row

    wide, narrow = ask(confidence=0.95), ask(confidence=0.5)
    assert set(wide) == set(narrow) == {"prediction"} | ADDS
    assert wide["lower"] < narrow["lower"] < narrow["prediction"] < narrow["upper"]
    assert isinstance(ask(confidence=None), float)
    assert set(ask(confidence=0.5, outputs=["upper"])) == ADDS
    assert ask(confidence=2).startswith("confidence: 2 is not a number")
    assert ask(outputs=["upper"], confidence=None).startswith(
        "outputs: upper requires parameters.confidence;"
    )
    assert ask(outputs=["nothing"]).startswith(f"{where}.outputs[0]: the model has no such")
    assert ask(outputs=[]).startswith(f"{where}.outputs: not a list of names")


# -- yesterday's clients -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORM_IDS)
def test_the_bytes_of_a_recorded_exchange_are_answered_byte_for_byte(inside, name):
    file = GOLDEN / name
    recorded = file.with_suffix(".request").read_bytes()

    answer = without_made_id(inside.send(recorded).raw)
    assert answer == file.with_suffix(".answer").read_bytes()


def test_what_clients_send_today_is_what_was_recorded(tmp_path, inside):
    write_golden(tmp_path, inside)

    def files(folder):
        # How small a body is packed is the library's choice, and another one may be better at it.
        found = [file for file in folder.rglob("*.*") if file.stem not in ("gzip", "deflate")]
        return {file.relative_to(folder): file.read_bytes() for file in found}

    assert files(tmp_path) == files(GOLDEN)


# -- errors --------------------------------------------------------------------------------------


def error_text_of(answer):
    """The text of an error, where the whole body is in the one shape or in that of a protocol."""
    error = answer.json["error"]
    if isinstance(error, dict):  # google-api-core reads it
        assert answer.json.keys() == {"error"}
        assert error.keys() == {"code", "message", "status"}
        assert error["code"] == answer.status
        assert error["status"].isupper()
        return error["message"]
    if answer.json.keys() != {"error"}:  # MLflow's clients and botocore read it
        assert answer.json.keys() == {"error", "error_code", "message"}
        assert answer.json["message"] == error
        from mlflow.protos.databricks_pb2 import ErrorCode

        assert ErrorCode.Value(answer.json["error_code"])
    return error


NAMED_FAILURE = r"the model failed; the server's log has the reason under id \S+"


@pytest.mark.parametrize("name", FORM_IDS)
def test_every_kind_of_error_has_its_status_and_the_one_shape(tmp_path, name):
    program, counted = protocol.Fixed(), Counter()
    worker = protocol.Inside(tmp_path, program, program.signature)
    for kind in KINDS:
        program.problem = kind("it did not work", hint="try another", retry_after_s=7)

        answer = worker.ask(FORMS[name].ask(protocol.FIXED_ROWS))

        assert answer.status == STATUS_OF[kind]
        text = error_text_of(answer)
        if kind is ModelFailed:  # its text may hold rows
            assert re.fullmatch(NAMED_FAILURE, text)
        else:
            assert text == "it did not work; try another"
        assert ("retry-after" in answer.headers) == (answer.status in (429, 503))
        counted[answer.status] += 1
        assert worker.counters.totals()[1].by_status == counted
    worker.close()


# -- the recorder --------------------------------------------------------------------------------


class Kept:
    """Keeps what a recorder is given: version, status, rows, outputs, and who answered."""

    def __init__(self):
        self.kept = []

    def add(self, context, call, answer, label, status, duration_ns):
        rows = None if call is None else call.rows
        by = None if answer is None else answer.by.name
        self.kept.append((f"{label.model}/{label.version}", status, rows, by))


@pytest.mark.parametrize("name", FORM_IDS)
def test_every_answer_is_recorded_once_with_its_version_status_and_rows(tmp_path, name):
    program, recorder = protocol.Fixed(), Kept()
    worker = protocol.Inside(tmp_path, program, program.signature, recorder=recorder)
    request = FORMS[name].ask(protocol.FIXED_ROWS)
    rows = len(protocol.FIXED_ROWS.values)
    refused = protocol.Request(
        request.path, request.body, (*request.headers, "X-Request-Timeout-Ms: no")
    )

    assert worker.ask(request).status == 200
    assert worker.ask(refused).status == 400
    program.problem = ModelFailed("it did not work")
    assert worker.ask(request).status == 500
    program.problem = None
    worker.stand_in(protocol.Fixed())
    program.problem = ModelFailed("it did not work")
    assert worker.ask(request).status == 200

    worker.close()
    assert recorder.kept == [
        ("m/1", 200, rows, "m/1"),
        ("m/1", 400, None, None),
        ("m/1", 500, rows, None),
        ("m/1", 200, rows, "m/0"),
    ]


@pytest.mark.parametrize("name", FORM_IDS)
def test_a_deadline_that_is_no_number_is_refused(inside, name):
    request = FORMS[name].ask(protocol.FIXED_ROWS)
    late = protocol.Request(
        request.path, request.body, (*request.headers, "X-Request-Timeout-Ms: no")
    )

    assert inside.ask(late).status == 400


@pytest.mark.parametrize("name", FORM_IDS)
def test_rows_are_bounded_from_both_sides(tmp_path, name):
    worker = protocol.Inside(tmp_path, protocol.Fixed(), protocol.Fixed.signature, max_rows=3)
    three = protocol.FIXED_ROWS
    four = protocol.Rows.of(three.signature, [*three.values, three.values[0]])

    statuses = [worker.ask(FORMS[name].ask(rows)).status for rows in (three, four)]

    worker.close()
    assert statuses == [200, 413]


def test_a_long_call_is_answered_from_the_thread(tmp_path):
    """Not only what runs inline is delivered."""
    worker = protocol.Inside(tmp_path, protocol.Fixed(), protocol.Fixed.signature)
    worker.model.engine.inline_rows = 0
    batcher = worker.model.engine.batcher
    answers = []

    async def main():
        for form in FORMS.values():
            batcher._loop = asyncio.get_running_loop()
            connection, wire = protocol.Connection(worker.site), protocol._Wire()
            connection.connection_made(wire)
            connection.data_received(form.ask(protocol.FIXED_ROWS).sent)
            while not wire.written:
                await asyncio.sleep(0)
            answers.append(wire.written.split(b" ")[1])

    asyncio.run(main())
    batcher.stop()
    worker.close()
    assert answers == [b"200"] * len(FORMS)


# -- anything at all -----------------------------------------------------------------------------

REFUSED = {400, 413}


def is_refused_in_words(answer):
    if answer.status not in REFUSED:
        return False
    return error_text_of(answer)


@settings(ALWAYS, max_examples=examples(300))
@given(name=st.sampled_from(FORM_IDS), body=st.binary(max_size=200))
def test_random_bytes_are_refused_in_words(inside, name, body):
    request = FORMS[name].ask(protocol.FIXED_ROWS)

    answer = inside.ask(protocol.Request(request.path, body, request.headers))

    assert is_refused_in_words(answer) or answer.status == 200


@settings(ALWAYS, max_examples=examples(1_000))
@given(data=st.data())
def test_a_damaged_body_is_answered_or_refused_in_words(inside, data):
    request = FORMS[data.draw(st.sampled_from(FORM_IDS))].ask(protocol.FIXED_ROWS)
    body = bytearray(request.body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))

    answer = inside.ask(protocol.Request(request.path, bytes(body), request.headers))

    assert answer.status == 200 or is_refused_in_words(answer)


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["hour", "wind", "carrier", 1, 2.0, -1]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["hour", "carrier", "wind", "columns", "data", "b64", "outputs"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
OF_JSON = [
    name
    for name, form in FORMS.items()
    if form.ask(protocol.FIXED_ROWS).headers == ("Content-Type: application/json",)
]


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@settings(ALWAYS, max_examples=examples(1_000))
@given(data=st.data(), value=ANY_JSON)
def test_any_value_in_any_place_is_answered_or_refused_in_words(inside, data, value):
    request = FORMS[data.draw(st.sampled_from(OF_JSON))].ask(protocol.FIXED_ROWS)
    body = json.loads(request.body)
    path = data.draw(st.sampled_from(list(places(body))))
    if path:
        inner = body
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    else:
        body = value

    answer = inside.ask(protocol.of_json(request.path, body))

    assert answer.status == 200 or is_refused_in_words(answer)


@pytest.mark.parametrize("name", OF_JSON)
@pytest.mark.parametrize("depth", [900, 5_000, 100_000])
@pytest.mark.parametrize("bomb", [b"[", b'{"a":'])
def test_a_nesting_bomb_is_refused_in_words(inside, name, depth, bomb):
    path = FORMS[name].ask(protocol.FIXED_ROWS).path
    closing = b"]" if bomb == b"[" else b"}"
    for body in (b"%b", b'{"instances":%b}', b'{"inputs":{"hour":[%b]}}', b'{"data":[[%b]]}'):
        inner = bomb * depth + b"0" + closing * depth
        assert is_refused_in_words(inside.ask(protocol.Request(path, body % inner)))


# -- what JSON leaves open -------------------------------------------------------------------------

INFINITE = (
    r"\S+( \(\w+\)\S*)? is infinite, where the model takes %s; send (null or NaN|a finite number).*"
)


@pytest.mark.parametrize("name", FORM_IDS)
def test_nan_is_null_and_infinity_is_refused_in_the_same_words_in_every_form(inside, name):
    """As JSON, in CSV and as bytes: what one form takes or refuses, every other does."""

    def ask(number):
        values = [[17, "AA", 4.5], [3, "BB", number]]
        return inside.ask(FORMS[name].ask(protocol.Rows.of(protocol.Fixed.signature, values)))

    names = [field.name for field in protocol.Fixed.signature.outputs]
    assert FORMS[name].read(ask(math.nan), names) == FORMS[name].read(ask(None), names)
    for number in (math.inf, -math.inf):
        refused = ask(number)
        assert refused.status == 400
        assert re.fullmatch(INFINITE % "numbers", error_text_of(refused))


@pytest.mark.parametrize("name", OF_JSON)
def test_infinity_is_no_value_of_another_type_either(inside, name):
    for row in ([-math.inf, "AA", 4.5], [3, math.inf, 4.5]):
        refused = inside.ask(FORMS[name].ask(protocol.Rows.of(protocol.Fixed.signature, [row])))
        assert refused.status == 400
        taken = "text" if row[1] == math.inf else "whole numbers of INT64"
        assert re.fullmatch(INFINITE % taken, error_text_of(refused))


def with_twice(body, path, key):
    """The JSON of a body in which the object at a path has a key a second time."""
    here = "the object"
    inner = {"": body}
    for part in ("", *path)[:-1]:
        inner = inner[part]
    last = ("", *path)[-1]
    found = inner[last]
    inner[last] = here
    rest = json.dumps(body if path else here)
    inner[last] = found
    pairs = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    pairs.append(f"{json.dumps(key)}: {json.dumps(found[key])}")
    return rest.replace(json.dumps(here), f"{{{', '.join(pairs)}}}").encode()


@pytest.mark.parametrize("name", OF_JSON)
def test_a_key_that_is_given_twice_is_refused_by_name_in_every_object(inside, name):
    """Some take the first and some the last; a client and what stands between may not agree."""
    request = FORMS[name].ask(protocol.FIXED_ROWS)
    body = json.loads(request.body)
    asked = 0
    for path in list(places(body)):
        found = body
        for key in path:
            found = found[key]
        if not isinstance(found, dict) or "b64" in found:
            continue
        for key in found:
            sent = with_twice(body, path, key)
            answer = inside.ask(protocol.Request(request.path, sent, request.headers))
            assert answer.status == 400, (path, key)
            assert f"{key!r} is given twice" in error_text_of(answer)
            asked += 1
    assert asked or isinstance(body, list)


@pytest.mark.parametrize("name", OF_JSON)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is empty; send JSON, for example "),
        (
            b"17,AA,4.5\n",
            "the body is not JSON: ',AA,4.5\\n' at byte 2 is not what can stand there",
        ),
    ],
)
def test_a_body_that_is_no_json_is_told_so_and_what_to_send(inside, name, body, told):
    request = FORMS[name].ask(protocol.FIXED_ROWS)
    answer = inside.ask(protocol.Request(request.path, body, request.headers))
    assert answer.status == 400
    assert error_text_of(answer).startswith(told)
    assert re.search(r'example {"(inputs|instances|data)": \[\.\.\.\]}', error_text_of(answer))


# -- what is wrong is named with its place -------------------------------------------------------


def wrong(rows, row, column, value):
    values = [list(line) for line in rows.values]
    values[row][column] = value
    return protocol.Rows.of(rows.signature, values)


# The bytes of an INT64 are always an INT64.
OF_TEXT = [name for name in FORM_IDS if name in OF_JSON or "csv" in name]


@pytest.mark.parametrize("name", OF_TEXT)
def test_a_value_that_does_not_fit_is_named_with_its_place(inside, name):
    request = FORMS[name].ask(wrong(protocol.FIXED_ROWS, 1, 0, 2.5))
    answer = inside.ask(request)
    assert answer.status == 400
    told = error_text_of(answer)
    assert "[1]" in told
    assert "hour" in told
    assert "2.5" in told
    assert "whole numbers of INT64" in told


# -- the OpenAPI document ------------------------------------------------------------------------


@pytest.fixture(params=["inside", "multi_model", "matrix", "frame", "by_default"])
def worker(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("path", ["/v2/openapi.json", "/swagger.json"])
def test_the_document_is_valid_and_has_every_route(worker, path):
    import openapi_spec_validator

    described = worker.ask(protocol.Request(path, b"", method="GET")).json

    openapi_spec_validator.validate(described)
    made = {
        (method.upper(), path)
        for path, operations in described["paths"].items()
        for method in operations
    }
    assert made == {
        (method.decode(), path.decode())
        for path, methods in worker.routes.items()
        for method in methods
        if method != b"HEAD"
    }


def test_every_example_is_valid_and_answered_with_what_the_document_promises(worker):
    import jsonschema

    described = json.loads(worker.plane.described())
    asked = 0
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            request = protocol.Request(path, b"", method="GET")
            if method == "post":
                body = operation["requestBody"]["content"]["application/json"]
                jsonschema.validate(body["example"], body["schema"])
                request = protocol.of_json(path, body["example"])
                asked += 1
            answer = worker.ask(request)
            assert answer.status == 200, (path, answer.body)
            kind = answer.headers["content-type"].partition(";")[0]
            promised = operation["responses"]["200"]["content"][kind]["schema"]
            if kind == "application/json":
                jsonschema.validate(answer.json, promised)
    assert asked == sum(
        route.method == b"POST" for methods in worker.routes.values() for route in methods.values()
    )


def test_the_document_has_the_models_own_fields(frame):
    import jsonschema

    described = json.loads(frame.plane.described())
    operation = described["paths"]["/v1/models/m:predict"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    row = body["schema"]["properties"]["instances"]["items"]

    assert list(row["properties"]) == [field.name for field in frame.model.signature.inputs]
    airport, listed = row["properties"]["airport"]["anyOf"]
    assert airport == {"type": "string", "enum": ["EWR", "JFK"]}
    assert listed == {"type": "array", "items": airport, "minItems": 1, "maxItems": 1}
    wind, _ = row["properties"]["wind"]["anyOf"]
    low, high = frame.model.signature.inputs[[*row["properties"]].index("wind")].bounds
    assert wind == {"type": ["number", "null"], "minimum": low, "maximum": high}
    for wrong_row in ({}, {**body["example"]["instances"][0], "airport": "XXX"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"instances": [wrong_row]}, body["schema"])
