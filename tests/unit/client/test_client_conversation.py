"""What a client says, and what it makes of what comes back: no server, no clock, no chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.serving.transports.statuses import STATUS_OF
from bascule_client.conversation import Ask, Conversation, Pause, common_headers, timed
from bascule_client.errors import (
    KINDS,
    Conflict,
    Invalid,
    ModelFailed,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Untrusted,
)
from bascule_client.kinds import KIND_OF, error_of, kind_of
from bascule_client.retrying import LONGEST_WAIT_S, wait_before_retry
from bascule_client.tensors import RequestOptions
from bascule_client.wire import Lost, Reply

# -- the kinds --


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_a_server_raised_is_raised_here_as_the_same_kind_or_as_what_can_be_done(kind):
    made = kind_of(STATUS_OF[kind])

    if kind is Untrusted:
        assert made is Refused  # they share a status, and a caller can do the same about both
    else:
        assert issubclass(kind, made)
        assert STATUS_OF[made] == STATUS_OF[kind]


def test_every_status_in_the_table_is_one_that_a_server_or_a_proxy_answers():
    of_proxies, of_the_transport = {502}, {408, 431}
    assert set(KIND_OF) == set(STATUS_OF.values()) | of_proxies | of_the_transport


@pytest.mark.parametrize(("status", "kind"), [(418, Invalid), (302, Invalid), (599, Unavailable)])
def test_a_status_that_nobody_knows_is_told_by_its_hundred(status, kind):
    assert kind_of(status) is kind


def test_an_error_has_the_servers_sentence_or_what_somebody_in_between_said():
    ours = error_of(Reply(400, {}, b'{"error": "hour: too late"}'))
    proxys = error_of(Reply(502, {}, b"<h1>Bad\n gateway</h1>"))

    assert (type(ours), str(ours)) == (Invalid, "hour: too late")
    assert str(proxys) == "the answer has status 502: <h1>Bad gateway</h1>"
    assert "key=" in error_of(Reply(401, {}, b"")).hint
    assert isinstance(error_of(Reply(401, {}, b"")), Unauthenticated)


# -- what is asked again --


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_did_not_do_it_is_asked_again_after_the_time_that_it_names(status):
    told = Reply(status, {"retry-after": "2"}, b"")

    assert wait_before_retry(told, 0, 3, 10, chance=0.0) == 2.0
    assert wait_before_retry(told, 0, 3, 2.01, chance=0.0) == 2.0
    assert wait_before_retry(told, 0, 3, 2.0, chance=0.0) is None  # the deadline comes first
    assert wait_before_retry(told, 0, 3, 10, chance=1.0) == pytest.approx(2.05)
    assert wait_before_retry(told, 2, 3, 10, chance=0.0) == 2.0
    assert wait_before_retry(told, 3, 3, 10, chance=0.0) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 500, 501, 504])
def test_what_would_end_the_same_way_is_not_asked_again(status):
    assert wait_before_retry(Reply(status, {"retry-after": "1"}, b""), 0, 3, 10, 0.5) is None


@pytest.mark.parametrize("reached", [False, True])
def test_a_lost_connection_is_tried_again_and_a_passed_deadline_is_not(reached):
    """A prediction changes nothing, so one whose answer was lost may be computed twice."""
    assert wait_before_retry(Lost("gone", reached), 0, 3, 10, 0.5) == 0.025
    assert wait_before_retry(Lost("late", reached, late=True), 0, 3, 10, 0.5) is None


@given(st.integers(0, 60), st.floats(0, 1))
def test_waits_are_spread_and_never_long(attempt, chance):
    wait_s = wait_before_retry(Lost("gone"), attempt, 100, 1e9, chance)
    assert 0 <= wait_s <= LONGEST_WAIT_S


# -- the conversation --

METADATA = {
    "name": "m",
    "inputs": [
        {"name": "a", "datatype": "FP64", "shape": [-1]},
        {"name": "b", "datatype": "FP64", "shape": [-1]},
    ],
    "outputs": [{"name": "sum", "datatype": "FP64", "shape": [-1]}],
    "parameters": {"version": "1"},
}
OTHER = {**METADATA, "inputs": METADATA["inputs"][:1], "parameters": {"version": "2"}}


class Server:
    """Answers steps by functions of the request, in turn or for ever; keeps what it was asked."""

    def __init__(self, **options):
        self.now = 0.0
        self.asked = []
        self.waited = []
        options = {"model": "m", "timeout_s": 10.0, "retries": 3, "max_request_bytes": 1 << 20,
                   **options}  # fmt: skip
        self.conversation = Conversation(
            "http://here", clock=lambda: self.now, chance=lambda: 0.0, **options
        )

    def carry(self, steps, answer):
        outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Pause):
                self.waited.append(step.wait_s)
                self.now += step.wait_s
                outcome = None
            else:
                assert isinstance(step, Ask)
                self.asked.append(step)
                outcome = answer(step.request)

    def predict(self, data, answer, model=None, timeout_s=None):
        return self.carry(
            self.conversation.predict(data, RequestOptions(), model, timeout_s), answer
        )

    @property
    def paths(self):
        return [one.request.path for one in self.asked]


def document(value, status=200, **headers):
    return Reply(status, headers, json.dumps(value).encode())


def rows_of(request):
    header = dict(request.headers).get("Inference-Header-Content-Length")
    said = json.loads(request.body[: int(header)] if header else request.body)
    start = int(header) if header else 0
    columns = {}
    for tensor in said["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        columns[tensor["name"]] = np.frombuffer(request.body[start : start + size], "<f8")
        start += size
    return columns


def summed(request, version="1"):
    columns = rows_of(request)
    total = sum(columns.values())
    return document(
        {
            "model_version": version,
            "parameters": {"program": "onnx"},
            "outputs": [
                {"name": "sum", "datatype": "FP64", "shape": [len(total)], "data": total.tolist()}
            ],
        }
    )


def honest(request):
    return document(METADATA) if request.method == "GET" else summed(request)


DATA = {"a": [1.0, 2.0, 3.0], "b": [10.0, 20.0, 30.0]}


def test_what_a_model_takes_is_asked_once_and_rows_after_it():
    server = Server()
    for _ in range(2):
        answer = server.predict(DATA, honest)

    assert answer["sum"].tolist() == [11.0, 22.0, 33.0]
    assert (answer.program, answer.version) == ("onnx", "1")
    assert server.paths == ["/v2/models/m", *["/v2/models/m/infer"] * 2]


def test_the_server_is_told_how_long_the_caller_still_waits():
    server = Server(timeout_s=2.0)
    refusals = [document({}, 503, **{"retry-after": "1"}), None]
    server.predict(DATA, lambda one: honest(one) if one.method == "GET" else
                   refusals.pop(0) or summed(one))  # fmt: skip

    assert server.waited == [1.0]
    said = [dict(timed(one).headers)["X-Request-Timeout-Ms"] for one in server.asked]
    assert said == ["2000", "2000", "1000"]


def test_retries_end_with_the_error_that_the_server_told():
    server = Server(retries=2)
    with pytest.raises(Overloaded, match="full") as refused:
        server.predict(DATA, lambda _: document({"error": "full"}, 429, **{"retry-after": "3"}))

    assert refused.value.facts["retry_after_s"] == 3
    assert server.waited == [3.0, 3.0]
    assert len(server.asked) == 3


def test_a_wait_that_would_outlast_the_caller_is_not_begun():
    server = Server()
    with pytest.raises(Unavailable):
        server.predict(DATA, lambda _: document({}, 503, **{"retry-after": "11"}))
    assert server.waited == []


@pytest.mark.parametrize(
    ("outcome", "kind", "times"),
    [
        (Lost("Connection refused", reached=False), Unavailable, 4),
        (Lost("no answer in time", late=True), TimedOut, 1),
        (Reply(500, {}, b""), ModelFailed, 1),
        (Reply(200, {}, b"<html>"), Untrusted, 1),
        (Reply(200, {}, b"[]"), Untrusted, 1),
        (Reply(200, {}, b'{"inputs": [{"name": "a"}]}'), Untrusted, 1),
    ],
)
def test_what_went_wrong_on_the_way_is_told_as_a_kind(outcome, kind, times):
    server = Server()
    with pytest.raises(kind):
        server.predict(DATA, lambda _: outcome)
    assert len(server.asked) == times


@pytest.mark.parametrize(("limit", "requests"), [(48, 1), (47, 2), (16, 3), (1, 3)])
def test_a_table_is_sent_in_parts_of_so_many_bytes_and_put_together(limit, requests):
    server = Server(max_request_bytes=limit)
    answer = server.predict(DATA, honest)

    assert answer["sum"].tolist() == [11.0, 22.0, 33.0]
    # All parts are answered by the version that answered the first.
    assert server.paths[1:] == [
        "/v2/models/m/infer",
        *["/v2/models/m/versions/1/infer"] * (requests - 1),
    ]


def test_parts_that_are_too_large_for_the_server_are_halved_until_they_fit():
    server = Server()

    def small(request):
        if request.method == "POST" and len(rows_of(request)["a"]) > 2:
            return document({"error": "too large"}, 413)
        return honest(request)

    answer = server.predict({"a": np.arange(7.0), "b": np.zeros(7)}, small)
    assert answer["sum"].tolist() == list(range(7))
    with pytest.raises(TooLarge):
        server.predict(DATA, lambda one: document({}, 413) if one.method == "POST" else honest(one))


def test_a_model_that_goes_away_between_two_parts_is_a_conflict_and_no_mixture():
    server = Server(max_request_bytes=16)

    def leaving(request):
        return document({}, 404) if "/versions/1/" in request.path else honest(request)

    with pytest.raises(Conflict, match="m was replaced") as told:
        server.predict(DATA, leaving)
    assert told.value.hint == "predict again"


def test_an_answer_of_a_version_that_takes_other_fields_does_not_count():
    """It is asked again, in the form that it takes; one that takes the same counts."""
    server = Server()

    def replaced(request):
        if request.method == "GET":
            return document(OTHER if request.path.endswith("/versions/2") else METADATA)
        return summed(request, version="2")

    answer = server.predict(DATA, replaced)
    assert answer["sum"].tolist() == [1.0, 2.0, 3.0]
    assert server.paths == [
        "/v2/models/m", "/v2/models/m/infer", "/v2/models/m/versions/2",
        "/v2/models/m/versions/2/infer",
    ]  # fmt: skip

    same = Server()
    answer = same.predict(
        DATA, lambda one: document(METADATA) if one.method == "GET" else summed(one, "2")
    )
    assert (answer["sum"].tolist(), answer.version) == ([11.0, 22.0, 33.0], "2")


def with_outputs(request, *tensors, version="1"):
    said = {"name": "sum", "datatype": "FP64", "shape": [1], "data": [0.0]}
    outputs = [{**said, **tensor} for tensor in tensors]
    return document({"model_version": version, "outputs": outputs})


EXTRA = {"name": "set"}


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ([{}], [{"shape": [0], "data": []}], r"sum has the shape \[0\] for 1 rows"),
        ([{}], [{"shape": [2], "data": [0, 0]}], r"sum has the shape \[2\] for 1 rows"),
        ([{}], [{"shape": []}], r"sum has the shape \[\] for 1 rows"),
        ([{"shape": [3], "data": [0, 0, 0]}], [{}], r"sum has the shape \[3\] for 1 rows"),
        ([{}], [{"name": "other"}], "output sum is missing"),
        ([{"name": "other"}], [{}], "output sum is missing"),
        ([{}, EXTRA], [{}], "output set is missing"),
        ([{}], [{}, EXTRA], "output set is not in the other parts"),
        ([{}], [{}, {}], "two outputs 'sum'"),
    ],
)
def test_a_part_with_other_rows_or_names_than_were_asked_for_is_no_answer(first, second, problem):
    server = Server(max_request_bytes=16)
    parts = [first, second, first]

    def answer(request):
        if request.method == "GET":
            return document(METADATA)
        return with_outputs(request, *parts.pop(0))

    with pytest.raises(Untrusted, match=problem):
        server.predict(DATA, answer)


def test_the_rows_of_an_answer_in_one_part_are_counted_too():
    three = {"shape": [3], "data": [1.0, 2.0, 3.0]}
    for tensor, is_whole in ((three, True), ({"shape": [2], "data": [1.0, 2.0]}, False)):
        server = Server()

        def answer(request, tensor=tensor):
            return honest(request) if request.method == "GET" else with_outputs(request, tensor)

        if is_whole:
            assert server.predict(DATA, answer)["sum"].tolist() == [1.0, 2.0, 3.0]
        else:
            with pytest.raises(Untrusted, match="for 3 rows"):
                server.predict(DATA, answer)


def test_outputs_that_were_asked_for_by_name_must_come_and_no_others_need_to():
    server = Server()

    def asked_for(*names):
        steps = server.conversation.predict(DATA, RequestOptions(names), None, None)
        tensor = {"name": "set", "shape": [3], "data": [1, 2, 3]}
        return server.carry(
            steps,
            lambda one: honest(one) if one.method == "GET" else with_outputs(one, tensor),
        )

    assert list(asked_for("set")) == ["set"]
    with pytest.raises(Untrusted, match="output sum is missing"):
        asked_for("set", "sum")


def test_parts_that_two_versions_answered_are_a_conflict_and_no_mixture():
    server = Server(max_request_bytes=16)
    versions = ["1", "2", "2"]

    def answer(request):
        return honest(request) if request.method == "GET" else summed(request, versions.pop(0))

    with pytest.raises(Conflict, match="m was replaced between two parts"):
        server.predict(DATA, answer)


def test_a_version_that_takes_the_same_in_another_order_is_asked_once_and_its_classes_are_read():
    server = Server()
    labels = {"parameters": {"labels": ["no", "yes"]}}
    shares = {"name": "sum", "datatype": "FP64", "shape": [-1, 2]}
    bounded = METADATA["inputs"][1] | {"parameters": {"bounds": [0, 99]}}

    def canary(request):
        if request.method == "POST":
            tensor = {**shares, "shape": [3, 2], "data": [0.25, 0.75] * 3}
            return document({"model_name": "m", "model_version": "2", "outputs": [tensor]})
        if not request.path.endswith("/versions/2"):
            return document(METADATA)
        return document(
            {**METADATA, "inputs": [bounded, METADATA["inputs"][0]], "outputs": [shares | labels]}
        )

    answer = server.predict(DATA, canary)
    assert answer.places == {"sum": ("no", "yes")}
    assert server.paths.count("/v2/models/m/infer") == 1
    assert not any(path.endswith("/versions/2/infer") for path in server.paths)


@pytest.mark.parametrize("known", [False, True])
def test_a_model_that_is_replaced_again_and_again_is_a_conflict_in_the_end(known):
    server = Server()
    if known:
        server.predict(DATA, honest)
    versions = iter(range(2, 100))

    def restless(request):
        """Each answer is of the next version, and each version takes other fields."""
        if request.method == "GET":
            version = int(request.path.rpartition("/")[2]) if "/versions/" in request.path else 1
            dtype = "FP64" if version % 2 else "INT64"
            inputs = [METADATA["inputs"][0] | {"datatype": dtype}, *METADATA["inputs"][1:]]
            return document({**METADATA, "inputs": inputs, "parameters": {"version": str(version)}})
        return summed(request, str(next(versions)))

    with pytest.raises(Conflict, match="m was replaced 3 times while it was asked") as told:
        server.predict(DATA, restless)
    assert told.value.hint == "predict again"


def test_a_model_that_is_replaced_twice_is_asked_a_third_time():
    server = Server()
    versions = iter(["2", "3", "3"])

    def replaced(request):
        if request.method == "POST":
            return summed(request, next(versions))
        if request.path.endswith("/versions/2"):
            return document(OTHER)
        version = "3" if request.path.endswith("/versions/3") else "1"
        return document({**METADATA, "parameters": {"version": version}})

    assert server.predict(DATA, replaced)["sum"].tolist() == [11.0, 22.0, 33.0]
    assert server.paths[1:] == [
        "/v2/models/m/infer", "/v2/models/m/versions/2",
        "/v2/models/m/versions/2/infer", "/v2/models/m/versions/3",
        "/v2/models/m/versions/3/infer",
    ]  # fmt: skip


def test_what_was_known_of_a_model_is_looked_up_again_before_rows_are_refused():
    server = Server()
    server.predict(DATA, honest)

    def replaced(request):
        if request.method == "GET":
            return document(OTHER)
        return summed(request, "2") if len(rows_of(request)) == 1 else document({}, 400)

    # By the server, and here: the old version took a column that is not there.
    assert server.predict(DATA, replaced)["sum"].tolist() == [1.0, 2.0, 3.0]
    again = Server()
    again.predict(DATA, honest)
    assert again.predict({"a": [5.0]}, replaced)["sum"].tolist() == [5.0]


def test_a_mistake_is_told_after_one_look_whether_the_model_is_still_the_same():
    server = Server()
    for looks in (1, 1):
        before = len(server.asked)
        with pytest.raises(Invalid, match="'b' is missing"):
            server.predict({"a": [5.0]}, honest)
        assert len(server.asked) - before == looks


def test_the_names_of_what_is_served_are_read_page_by_page():
    pages = {
        "/models": {"models": [{"modelName": "x"}], "nextPageToken": "x&y"},
        "/models?next_page_token=x%26y": {"models": [{"modelName": "z"}]},
    }
    server = Server()

    names = server.carry(server.conversation.models(), lambda one: document(pages[one.path]))

    assert names == ["x", "z"]


def test_without_a_name_the_only_model_is_asked_and_of_several_one_must_be_named():
    def serving(*names):
        listed = document({"models": [{"modelName": name} for name in names]})
        return lambda one: listed if one.path == "/models" else honest(one)

    server = Server(model=None)
    with pytest.raises(Invalid, match="serves x, y"):
        server.predict(DATA, serving("x", "y"))
    for _ in range(2):
        server.predict(DATA, serving("m"))
    assert server.paths.count("/models") == 2
    assert server.predict(DATA, honest, model="n/7").version == "1"
    assert server.paths[-1] == "/v2/models/n/versions/7/infer"


@pytest.mark.parametrize(
    ("outcome", "ready"),
    [
        (document({"ready": True}), True),
        (document({"ready": False}, 503), False),
        (document({}, 404), False),
        (Lost("refused", reached=False), False),
    ],
)
def test_readiness_is_asked_once_and_a_server_that_is_away_is_not_ready(outcome, ready):
    server = Server()
    assert server.carry(server.conversation.ready(None), lambda _: outcome) is ready
    assert server.paths == ["/v2/models/m/ready"]
    with pytest.raises(Unauthenticated):
        server.carry(server.conversation.ready(None), lambda _: document({}, 401))


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(timeout_s):
    with pytest.raises(Invalid, match="timeout_s"):
        Server(timeout_s=timeout_s)
    with pytest.raises(Invalid, match="timeout_s"):
        Server().predict(DATA, honest, timeout_s=timeout_s)


@pytest.mark.parametrize("options", [{"retries": -1}, {"max_request_bytes": 0}])
def test_other_options_have_bounds_too(options):
    with pytest.raises(Invalid, match="is not >="):
        Server(**options)


@pytest.mark.parametrize("model", ["", "/3", "m/3/"])
def test_a_name_that_is_none_is_refused(model):
    with pytest.raises(Invalid, match="is no model"):
        Server().predict(DATA, honest, model=model)


@pytest.mark.parametrize("key", ["", "a\r\nHost: evil", "a b", "é"])
def test_a_key_cannot_be_another_header(key):
    with pytest.raises(Invalid, match="key"):
        common_headers("here", key)


def test_names_of_models_cannot_leave_their_place_in_the_path():
    server = Server()
    with pytest.raises(NotFound):
        server.predict(DATA, lambda _: document({}, 404), model="x?y #/1")
    assert server.paths == ["/v2/models/x%3Fy%20%23/versions/1"]
