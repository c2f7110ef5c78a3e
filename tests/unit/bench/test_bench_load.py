import http.server
import shutil
import threading

import pytest
from bench import load
from bench.load import parse
from bench.requests import JSON, Request

LINE = (
    'BENCH {"requests":4000,"duration_us":2000000,"p50_us":1500.0,"p99_us":9000.0,'
    '"bad_status":%d,"bad_body":%d,"broken":%d}'
)


def test_the_result_line_is_found_among_what_the_tool_prints():
    seen = parse("Running 2s test @ http://127.0.0.1\n  Latency 1.5ms\n" + LINE % (0, 0, 0) + "\n")

    assert (seen.rps, seen.p50_ms, seen.p99_ms, seen.errors) == (2000.0, 1.5, 9.0, 0)


@pytest.mark.parametrize("kinds", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_every_kind_of_failure_is_an_error(kinds):
    assert parse(LINE % kinds).errors == 1


def test_a_tool_that_failed_is_not_mistaken_for_one_without_errors():
    with pytest.raises(ValueError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:9 Connection refused")


@pytest.fixture
def server():
    """Answers `{"data":[0.25]}` with the status in the path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"data":[0.25]}'
            self.send_response(int(self.path[1:]))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments):
            """The load tool hangs up in the middle of an answer when its time is over."""

    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "expected", "all_wrong"),
    [("/200", b"0.25", False), ("/200", b"0.26", True), ("/503", b"0.25", True)],
)
def test_answers_are_checked_by_status_and_content(server, tmp_path, path, expected, all_wrong):
    if shutil.which("wrk") is None:
        pytest.fail("wrk is missing: apt-get install wrk")
    seen = load.run(server + path, Request(b"{}", JSON), expected, 1, folder=tmp_path, core=0)

    assert seen.requests > 0
    assert (seen.errors >= seen.requests) if all_wrong else (seen.errors == 0)
