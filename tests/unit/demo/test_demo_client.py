import http.server
import json
import threading

import numpy as np
import pandas as pd
import pytest

from bascule.core.fields import DType, Field, Signature
from bascule.demo.client import LoadResult, Reply, ask, bodies

SIGNATURE = Signature(
    inputs=(
        Field("carrier", DType.BYTES, nullable=True),
        Field("distance", DType.INT64),
        Field("temp", DType.FP64, nullable=True),
    ),
    outputs=(),
)


def test_a_request_has_one_tensor_a_column_and_missing_is_null():
    rows = pd.DataFrame(
        {"temp": [np.nan], "distance": [1400], "carrier": pd.Series([None], dtype="str"), "x": [1]}
    )
    (body,) = bodies(SIGNATURE, rows)

    assert json.loads(body)["inputs"] == [
        {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": [None]},
        {"name": "distance", "datatype": "INT64", "shape": [1], "data": [1400]},
        {"name": "temp", "datatype": "FP64", "shape": [1], "data": [None]},
    ]


@pytest.fixture
def echo():
    """Answers a body with itself; hangs up on `hang up`; 503 on `full`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if body == b"hang up":
                self.close_connection = True
                return
            self.send_response(503 if body == b"full" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made.server_port
        made.shutdown()
        thread.join()


def test_each_reply_stands_where_its_request_stood(echo):
    requests = [str(number).encode() * (number % 7 + 1) for number in range(300)]
    asked = ask(echo, "/", requests, connections=8)

    assert [reply.body for reply in asked.replies] == requests
    assert asked.errors == 0
    assert asked.seconds > 0


def test_a_broken_connection_loses_its_request_alone(echo):
    asked = ask(echo, "/", [b"hang up", *[b"ok"] * 20], connections=2)

    assert asked.replies[0] is None
    assert asked.errors == 1


def test_another_status_is_an_error(echo):
    assert ask(echo, "/", [b"ok", b"full"], connections=1).errors == 1


def test_where_nobody_listens_everything_is_an_error():
    asked = ask(9, "/", [b"one", b"two"], connections=2)

    assert asked.replies == [None, None]
    assert asked.errors == 2


def test_a_quantile_is_a_time_that_was_measured():
    asked = LoadResult([Reply(200, b"", n / 1000) for n in range(1, 101)], 1.0, 0.0)

    assert asked.latency_ms(0.5) == 51.0
    assert asked.latency_ms(0.99) == 100.0
    assert asked.latency_ms(1.0) == 100.0
