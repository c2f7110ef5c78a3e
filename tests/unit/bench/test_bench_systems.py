import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bench.__main__ import main
from bench.subject import ImportedModel
from bench.systems import ALL, Wrong
from bench.systems.system import System, free_ports, longest_numbers

ROWS = np.arange(6.0).reshape(2, 3)
TRUTH = np.array([[0.75, 0.25], [0.5, 0.5]])
SUBJECT = ImportedModel(Path("b"), Path("p"), "onnx", Path("m"), "input", "FP64", ROWS, TRUTH)
SERVER = """
import http.server, json, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def answer(probabilities):
    data = [value for row in probabilities for value in row]
    output = {"name": "probabilities", "shape": [len(probabilities), 2], "data": data}
    return json.dumps({"id": "x" * 99, "outputs": [output]})


class Fake(System):
    name = "fake"
    about = "a server for tests"
    said = answer(TRUTH.tolist())

    def command(self):
        return [sys.executable, "-c", SERVER, str(self.port), self.said]


class Mute(Fake):
    def command(self):
        return [sys.executable, "-c", "raise SystemExit('no such model')"]


def test_every_system_has_a_name_of_its_own_and_says_what_it_is():
    assert list(ALL) == [kind.name for kind in ALL.values()]
    assert all(kind.about for kind in ALL.values())


def test_an_answer_that_is_the_models_is_accepted_and_its_numbers_are_what_load_looks_for(tmp_path):
    with Fake(SUBJECT, tmp_path, core=0) as system:
        assert system.first_answer_s() > 0
        assert system.verified(ROWS, TRUTH) == b"0.75, 0.25, 0.5, 0.5"


@pytest.mark.parametrize(("off", "accepted"), [(0.9e-5, True), (1.1e-5, False)])
def test_an_answer_that_is_off_by_more_than_the_tolerance_aborts(tmp_path, off, accepted):
    class Off(Fake):
        said = answer([[0.75, 0.25], [0.5, 0.5 + off]])

    with Off(SUBJECT, tmp_path, core=0) as system:
        system.first_answer_s()
        if accepted:
            system.verified(ROWS, TRUTH)
        else:
            with pytest.raises(Wrong, match="off by"):
                system.verified(ROWS, TRUTH)


@pytest.mark.parametrize("instead", [float("nan"), None, "half"])
def test_probabilities_that_are_no_numbers_do_not_pass(tmp_path, instead):
    class Odd(Fake):
        said = answer([[0.75, 0.25], [0.5, instead]])

    with Odd(SUBJECT, tmp_path, core=0) as system:
        system.first_answer_s()
        with pytest.raises(Wrong, match="fake"):
            system.verified(ROWS, TRUTH)


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path):
    with (
        Mute(SUBJECT, tmp_path, core=0) as system,
        pytest.raises(Wrong, match="ended with 1: no such model"),
    ):
        system.first_answer_s()


def test_the_whole_process_group_is_gone_afterwards(tmp_path):
    with pytest.raises(KeyboardInterrupt), Fake(SUBJECT, tmp_path, core=0) as system:  # noqa: PT012
        system.first_answer_s()
        raise KeyboardInterrupt
    child = int((tmp_path / "fake.log").read_text().split()[1])

    assert system.process.poll() is not None
    assert _ends(child)


def _ends(pid):
    """Whether a process is dead, or is so within a second: its death is not ours to wait for."""
    until = time.monotonic() + 1
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        os.sched_yield()
    return False


def test_the_numbers_of_an_answer_are_told_from_its_texts_and_shapes():
    raw = b'{"id":"a-long-identifier","shape":[1,2],"outputs":[{"data":[1]},{"data":[0.1,2e-05]}]}'

    assert longest_numbers(raw) == b"0.1,2e-05"


def test_an_answer_without_numbers_is_refused():
    with pytest.raises(Wrong, match="no numbers"):
        longest_numbers(b'{"error":"overloaded"}')


def test_free_ports_differ():
    assert len(set(free_ports(8))) == 8


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "x"], ["--only", "tomcat"]])
def test_wrong_words_on_the_command_line_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert arguments[1] in capsys.readouterr().err


def test_what_speaks_http_is_not_asked_over_grpc_nor_the_other_way_round(tmp_path):
    for name, kind in ALL.items():
        over_grpc = name.endswith(("-grpc", "-grpcio"))
        assert kind(SUBJECT, tmp_path, 0).offers("grpc") == over_grpc, name
        assert kind(SUBJECT, tmp_path, 0).offers("json") != over_grpc, name
