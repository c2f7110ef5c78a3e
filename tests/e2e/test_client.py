"""`bascule.Client` and `bascule.AsyncClient` against running servers: the same bits and kinds."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sklearn.datasets import load_breast_cancer, load_linnerud
from tests.pace import is_within
from tests.scenarios.commands import bascule as run

import bascule
from bascule.bundle.tables import conform, for_program
from bascule.control.references import version_of
from bascule.core.errors import (
    Invalid,
    NotFound,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

ROWS = load_breast_cancer().data
FAST = settings(
    max_examples=25, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture(scope="module")
def targets_bundle(packed):
    """Several numbers at once."""
    from sklearn.linear_model import LinearRegression

    X, y = load_linnerud(return_X_y=True, as_frame=True)
    return packed("targets", LinearRegression().fit(X, y), X, (X, y))


@pytest.fixture(scope="module")
def texts_bundle(packed):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["late again", "on time", "late, of course", "right on time", "so late", "in time"]
    labels = ["bad", "good"] * 3
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, labels)
    return packed("texts", model, texts, (texts, labels))


@pytest.fixture(scope="module")
def named_bundle(packed):
    """A matrix whose columns have names."""
    from xgboost import XGBRegressor

    X, y = load_linnerud(return_X_y=True, as_frame=True)
    return packed("named", XGBRegressor(n_estimators=5).fit(X.to_numpy(), y["Weight"]), X)


@pytest.fixture(scope="module")
def gaps_bundle(packed):
    """A table with a text that may be missing."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pd.DataFrame({"carrier": ["AA", None, "BB", "AA"] * 5, "hour": list(range(20))})
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), ("passthrough", ["hour"])
        ),
        LogisticRegression(),
    ).fit(table, [0, 1] * 10)
    return packed("gaps", model, table)


@pytest.fixture(scope="module")
def bundles(
    cancer_bundle, regressor_bundle, table_bundle, targets_bundle, texts_bundle, named_bundle,
    gaps_bundle,
):  # fmt: skip
    paths = (
        cancer_bundle, regressor_bundle, table_bundle, targets_bundle, texts_bundle, named_bundle,
        gaps_bundle,
    )  # fmt: skip
    return {bundle.name: bundle for bundle in map(bascule.load, paths)}


@pytest.fixture(scope="module")
def unix_socket(tmp_path_factory):
    return tmp_path_factory.mktemp("socket") / "bascule.sock"


@pytest.fixture(scope="module")
def server(start, bundles, unix_socket):
    paths = (bundle.path for bundle in bundles.values())
    running = start(*paths, f"--unix-socket={unix_socket}")
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture
def client(server):
    with bascule.Client(f"http://127.0.0.1:{server.port}") as made:
        yield made


def in_the_hand(bundle, data, program):
    """The answer of the bundle itself, by the program that a server chose for its requests."""
    rows = conform(data, bundle.signature)
    if bundle.fastest_program(len(next(iter(rows.values())))) == program:
        return bundle.predict(data)
    run = bundle.program(program)
    return run.run(for_program(rows, run.inputs))


def all_equal(client, bundle, data):
    for as_json in (False, True):
        answer = client.predict(data, model=bundle.name, as_json=as_json)
        expected = in_the_hand(bundle, data, answer.program)
        assert list(answer) == list(expected)
        for name, values in expected.items():
            assert answer[name].dtype == values.dtype, name
            assert answer[name].shape == values.shape, name
            if values.dtype == object:
                assert answer[name].tolist() == values.tolist(), name
            else:
                assert answer[name].tobytes() == values.tobytes(), name
        assert isinstance(answer, bascule.Answer)
        assert answer.version == version_of(bundle.digest)


# -- the same bits ---------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize(("name", "width"), [("gb", 30), ("ridge", 10), ("targets", 3)])
@FAST
@given(data=st.data())
def test_a_matrix_gets_the_bits_of_the_bundle(client, bundles, name, width, data):
    rows = data.draw(st.lists(st.lists(NUMBERS, min_size=width, max_size=width),
                              min_size=1, max_size=5))  # fmt: skip
    all_equal(client, bundles[name], np.array(rows))
    all_equal(client, bundles[name], rows)


ROW = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["AA", "BB", "é", ""]) | st.none(),
        "airport": st.sampled_from(["EWR", "JFK"]),
        "month": st.integers(1, 12),
        "wind": st.none() | NUMBERS,
        "gust": NUMBERS,
    }
)
TABLES = {
    # A missing text is NaN in it, as in the table of the training.
    "pandas": lambda rows: pd.DataFrame(rows).astype({"carrier": "str"}),
    "polars": lambda rows: pl.DataFrame(rows, infer_schema_length=None),
    "arrow": pa.Table.from_pylist,
    "dict": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
}


@pytest.mark.parametrize("source", TABLES)
@FAST
@given(rows=st.lists(ROW, min_size=1, max_size=5))
def test_a_table_with_texts_and_missing_values_gets_the_bits_of_the_bundle(
    client, bundles, source, rows
):
    if not bundles["table"].signature.inputs[0].nullable:
        rows = [{**row, "carrier": row["carrier"] or "AA"} for row in rows]
    all_equal(client, bundles["table"], TABLES[source](rows))


def test_a_missing_text_goes_over_too(client, bundles):
    all_equal(client, bundles["gaps"], {"carrier": ["AA", None, "é"], "hour": [1, 2, 3]})


@FAST
@given(texts=st.lists(st.text() | st.sampled_from(["late again", "on time"]), min_size=1))
def test_texts_get_the_bits_of_the_bundle(client, bundles, texts):
    all_equal(client, bundles["texts"], texts)


def test_columns_of_a_table_are_taken_by_name_as_the_bundle_takes_them(client, bundles):
    X, _ = load_linnerud(return_X_y=True, as_frame=True)
    turned = X[X.columns[::-1]]
    assert bundles["named"].signature.is_matrix
    for name in ("targets", "named"):
        all_equal(client, bundles[name], turned)
        assert np.asarray(client.predict(turned, model=name)).tobytes() == (
            np.asarray(client.predict(X, model=name)).tobytes()
        )


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("name", "rows"), [("gb", 30), ("ridge", 10)])
def test_confidence_and_chosen_outputs_are_those_of_the_bundle(
    client, bundles, name, rows, as_json
):
    data = np.ones((4, rows))
    answer = client.predict(data, model=name, confidence=0.9, as_json=as_json)
    expected = bundles[name].predict(data, confidence=0.9)
    assert list(answer) == list(expected)
    added = [one for one in expected if one in ("prediction_set", "lower", "upper")]
    assert added
    for one in added:
        assert answer[one].dtype == expected[one].dtype
        np.testing.assert_allclose(answer[one], expected[one], rtol=1e-5)
    first = next(iter(expected))
    assert list(client.predict(data, model=name, outputs=[first])) == [first]


def test_a_large_table_is_sent_in_parts_and_is_one_answer(server, bundles):
    table = np.tile(ROWS, (8, 1))
    with bascule.Client(
        f"http://127.0.0.1:{server.port}", model="gb", max_request_bytes=100_000
    ) as client:
        answer = client.predict(table, timeout_s=60)
    expected = in_the_hand(bundles["gb"], ROWS, answer.program)["probabilities"]
    assert answer["probabilities"].tobytes() == np.tile(expected, (8, 1)).tobytes()


def test_parts_are_halved_where_the_server_takes_less_and_one_row_that_is_too_large_is_told(
    serve, bundles
):
    chosen = bundles["gb"], bundles["texts"]
    limit = {"BASCULE_SERVING__MAX_BODY_BYTES": "20000"}
    running = serve(*(one.path for one in chosen), env=limit)
    with bascule.Client(f"http://127.0.0.1:{running.port}") as client:
        answer = client.predict(ROWS, model="gb")
        assert len(answer["label"]) == len(ROWS)
        assert answer["label"].tolist() == bundles["gb"].predict(ROWS)["label"].tolist()
        with pytest.raises(TooLarge):
            client.predict(["late", "late again " * 2_000], model="texts")


# -- what a server says of itself ------------------------------------------------------------------


def test_a_server_tells_its_models_and_what_they_take(client, bundles):
    assert client.models() == list(bundles)
    said = client.metadata("table")
    assert [one["name"] for one in said["inputs"]] == [
        one.name for one in bundles["table"].signature.inputs
    ]
    assert said["parameters"]["version"] == said["versions"][0]
    assert client.metadata("named")["inputs"][0]["parameters"]["columns"] == [
        "Chins", "Situps", "Jumps",
    ]  # fmt: skip
    assert client.ready()
    assert client.ready("gb")
    assert not client.ready("no")
    with bascule.Client("http://127.0.0.1:1", model="gb") as nowhere:
        assert not nowhere.ready()


def test_mistakes_are_told_before_anything_is_sent_or_as_the_server_tells_them(client):
    with pytest.raises(Invalid, match="column 'gust' is missing"):
        client.predict(pd.DataFrame({"carrier": ["AA"], "airport": ["JFK"], "month": [1],
                                     "wind": [0.0]}), model="table")  # fmt: skip
    with pytest.raises(Invalid, match="no output 'nope'"):
        client.predict(ROWS, model="gb", outputs=["nope"])
    with pytest.raises(NotFound, match="no model 'no' here"):
        client.predict(ROWS, model="no")
    with pytest.raises(NotFound, match="no version '7'"):
        client.predict(ROWS, model="gb/7")
    with pytest.raises(Invalid, match="serves gb, ridge"):
        client.predict(ROWS)


# -- on the way --------------------------------------------------------------------------------


def test_threads_share_a_client_and_each_gets_its_own_rows(client, bundles):
    expected = in_the_hand(bundles["gb"], ROWS, client.predict(ROWS, model="gb").program)["label"]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda i: client.predict(ROWS[i : i + 1], model="gb"), range(400))
    assert [answer["label"][0] for answer in answers] == expected[:400].tolist()


def test_connections_are_kept(client, server, connect):
    import psutil

    for _ in range(20):
        client.predict(ROWS[:1], model="gb")
    mine = [
        one
        for one in psutil.Process().net_connections("tcp")
        if one.raddr and one.raddr.port == server.port and one.status == "ESTABLISHED"
    ]
    assert len(mine) == 1


def test_a_closed_client_asks_nothing(server):
    client = bascule.Client(f"http://127.0.0.1:{server.port}", model="gb")
    with client:
        client.predict(ROWS[:1])
    with pytest.raises(Invalid, match="closed"):
        client.predict(ROWS[:1])


@pytest.mark.slow
def test_workers_may_die_under_a_client_and_it_gets_all_its_answers(serve, cancer_bundle):
    running = serve(cancer_bundle, "--workers=2")
    expected = bascule.load(cancer_bundle).predict(ROWS)["label"].tolist()
    done = threading.Event()

    def kill():
        for worker in running.worker_pids():
            os.kill(worker, signal.SIGKILL)
            done.wait(0.1)
        done.set()

    killer = threading.Thread(target=kill)
    with bascule.Client(f"http://127.0.0.1:{running.port}", timeout_s=30, retries=50) as client:
        client.predict(ROWS[:1])
        killer.start()
        asked = 0
        while not done.is_set() or asked < 200:
            row = asked % len(ROWS)
            assert client.predict(ROWS[row : row + 1])["label"][0] == expected[row]
            asked += 1
        killer.join()


@pytest.mark.serial
def test_a_caller_who_waits_too_little_is_told_so_in_time(serve, costly_bundle):
    running = serve(costly_bundle)
    with bascule.Client(f"http://127.0.0.1:{running.port}") as client:
        client.predict(np.zeros((1, 16), np.float32))
        began = time.monotonic()
        with pytest.raises(TimedOut):
            client.predict(np.zeros((20_000, 16), np.float32), timeout_s=0.05)
        assert is_within(time.monotonic() - began, 1.0)
        # And the connection on which that answer may still come is not used again.
        assert client.predict(np.zeros((2, 16), np.float32))["t2"].shape == (2, 2)


def test_a_server_that_is_not_there_is_named(monkeypatch):
    with (
        bascule.Client("http://127.0.0.1:1", model="gb") as client,
        pytest.raises(Unavailable, match=r"http://127.0.0.1:1 cannot be asked: .*refused"),
    ):
        client.predict(ROWS)


# -- who is let in -------------------------------------------------------------------------------


def keys_create(home, permission):
    return run(home, "keys", "create", "me", "--allow", permission)["token"]


def test_a_key_is_shown_where_callers_need_one(serve, cancer_bundle, tmp_path):
    home = tmp_path / "home"
    token = keys_create(home, "infer:gb")
    running = serve(
        cancer_bundle, env={"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"}
    )
    url = f"http://127.0.0.1:{running.port}"
    with bascule.Client(url, model="gb", key=token) as client:
        assert len(client.predict(ROWS)["label"]) == len(ROWS)
        assert client.models() == ["gb"]
    with bascule.Client(url, model="gb") as client:
        assert client.ready()
        with pytest.raises(Unauthenticated) as told:
            client.predict(ROWS)
        assert "key=" in told.value.hint


def test_tls_with_an_authority_and_a_certificate_of_the_clients_own(
    serve, cancer_bundle, authority
):
    certificate, key = authority("server")
    running = serve(
        cancer_bundle, f"--tls-certificate={certificate}", f"--tls-key={key}",
        env={"BASCULE_SERVING__TLS_CLIENT_AUTHORITY": str(authority.root)},
    )  # fmt: skip
    url = f"https://127.0.0.1:{running.port}"
    own, own_key = authority("client")
    options = {"tls_authority": authority.root, "tls_certificate": own, "tls_key": own_key}
    with bascule.Client(url, **options) as client:
        for _ in range(3):
            assert len(client.predict(ROWS)["label"]) == len(ROWS)
        assert len(client._idle) == 1, "one connection does"
    control_url = f"https://127.0.0.1:{running.control_port}"
    with bascule.Client(url, control_url=control_url, **options) as client:
        assert len(client.submit(ROWS).result()["label"]) == len(ROWS)

    async def ask():
        async with bascule.AsyncClient(url, **options) as client:
            return await client.predict(ROWS)

    assert len(asyncio.run(ask())["label"]) == len(ROWS)
    with (
        bascule.Client(url, model="gb", tls_certificate=own, tls_key=own_key) as client,
        pytest.raises(Unavailable, match=r"(?i)certificate.verify"),
    ):
        client.predict(ROWS)
    with (
        bascule.Client(url, model="gb", tls_authority=authority.root) as client,
        pytest.raises(Unavailable),
    ):
        client.predict(ROWS)


@pytest.mark.usefixtures("server")
def test_a_socket_of_the_file_system_does(unix_socket):
    async def ask():
        async with bascule.AsyncClient(f"unix:{unix_socket}", model="gb") as client:
            return await client.predict(ROWS)

    with bascule.Client(f"unix:{unix_socket}", model="gb") as client:
        assert client.predict(ROWS)["label"].tolist() == asyncio.run(ask())["label"].tolist()


# -- asyncio -------------------------------------------------------------------------------------


def test_with_asyncio_each_row_gets_its_own_answer_on_few_connections(server, bundles):
    async def ask():
        async with bascule.AsyncClient(
            f"http://127.0.0.1:{server.port}", model="gb", max_connections=4
        ) as client:
            assert await client.models() == list(bundles)
            assert await client.ready()
            assert (await client.metadata())["name"] == "gb"
            answers = await asyncio.gather(*(client.predict(row[None]) for row in ROWS[:300]))
            assert len(client._idle) == 4
            return [answer["label"][0] for answer in answers], answers[0].program

    labels, program = asyncio.run(ask())
    assert labels == in_the_hand(bundles["gb"], ROWS[:300], program)["label"].tolist()


def test_one_client_serves_one_loop_after_the_other(server):
    client = bascule.AsyncClient(f"http://127.0.0.1:{server.port}", model="gb")

    async def ask(*, last):
        made = await client.predict(ROWS)
        if last:
            await client.close()
        else:
            for one in client._idle:
                one.writer.close()
        return made["label"].tolist()

    assert asyncio.run(ask(last=False)) == asyncio.run(ask(last=True))


@pytest.mark.slow
def test_a_call_that_is_cancelled_leaves_no_connection_to_the_next(serve, costly_bundle):
    running = serve(costly_bundle)

    async def ask():
        async with bascule.AsyncClient(f"http://127.0.0.1:{running.port}", model="net") as client:
            await client.predict(np.zeros((1, 16), np.float32))
            slow = asyncio.create_task(client.predict(np.zeros((20_000, 16), np.float32)))
            await asyncio.sleep(0.05)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await client.predict(np.zeros((3, 16), np.float32)))["t2"].shape == (3, 2)
            with pytest.raises(TimedOut):
                await client.predict(np.zeros((20_000, 16), np.float32), timeout_s=0.05)

    asyncio.run(ask())


# -- weight --------------------------------------------------------------------------------------


def test_a_client_loads_no_framework_no_runtime_and_no_server():
    script = (
        "import sys, bascule; bascule.Client('http://127.0.0.1:1');"
        "print([m for m in ('onnxruntime','onnx','sklearn','pandas','pyarrow','sqlalchemy','httpx',"
        "'fastapi','ssl','asyncio','bascule.serving') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
