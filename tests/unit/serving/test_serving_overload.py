"""More is asked than can be done: what is accepted is answered in time, the rest told at once."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from bascule.serving.placing import Pace

RUN_S = 0.01
DEADLINE_S = 0.15


class Slow:
    """One row at a time, ten milliseconds each: a hundred a second, and no more."""

    def __init__(self, program):
        self._program = program
        self.name, self.inputs, self.outputs = program.name, program.inputs, program.outputs
        self.signature = program.signature
        self.runs = 0

    def run(self, columns, outputs=None):
        rows = len(columns["x"])
        self.runs += rows
        time.sleep(RUN_S * rows)  # or larger batches would do away with the overload
        return self._program.run(columns, outputs)


@pytest.mark.parametrize("inline_rows", [0, 1], ids=["on its thread", "on the loop"])
@pytest.mark.parametrize("seconds", [1.5, pytest.param(60, marks=pytest.mark.slow)])
def test_three_times_too_many_requests_leave_the_goodput_where_it_was(
    serve_models, fake, ask, seconds, inline_rows
):
    program = Slow(fake())
    server = serve_models(
        ("m", program, Pace(RUN_S, inline_rows, batch_rows=1)), deadline_s=DEADLINE_S
    )
    statuses, accepted_s, refused_s = Counter(), [], []
    stop_s = time.monotonic() + seconds

    def offer():
        with server.client() as client:
            while (started_s := time.monotonic()) < stop_s:
                answer = client.request("POST", "/v2/models/m/infer", ask([1, 2])).answer()
                took_s = time.monotonic() - started_s
                statuses[answer.status] += 1
                (accepted_s if answer.status == 200 else refused_s).append(took_s)
                if answer.status == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                time.sleep(max(0.0, 0.1 - took_s))  # thirty callers, ten times a second each

    threads = [threading.Thread(target=offer) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted_s.sort()
    refused_s.sort()
    p99_ms = accepted_s[int(len(accepted_s) * 0.99)] * 1e3
    goodput = statuses[200] / program.runs
    print(f"{statuses}, p99 of accepted {p99_ms:.0f} ms, {program.runs / seconds:.0f} runs/s")  # noqa: T201
    assert statuses[429] > statuses[200] / 4
    assert set(statuses) <= {200, 429, 504}
    assert statuses[504] <= 0.03 * statuses[200]
    assert goodput >= 0.9, "what was run was mostly for callers who had given up"
    assert program.runs >= 0.8 * seconds / RUN_S
    assert refused_s[len(refused_s) // 2] < 0.05, "a refusal is to be quick"


@pytest.mark.parametrize(("body", "statuses"), [(b"no JSON", (429, 400)), (None, (429, 200))])
def test_what_the_thread_cannot_answer_in_time_is_refused_before_it_is_decoded(
    serve_models, fake, ask, body, statuses
):
    program = fake()
    server = serve_models(("m", program, Pace(1.0, inline_rows=0, batch_rows=1)))
    program.gate.clear()
    with server.client() as first, server.client() as hurried:
        first.request("POST", "/v2/models/m/infer", ask([1, 2]))
        assert program.running.wait(10)
        path, asked = "/v2/models/m/infer", body or ask([1, 2])
        hurried.request("POST", path, asked, "X-Request-Timeout-Ms: 500\r\n")
        refused = hurried.answer()
        program.gate.set()
        assert first.answer().status == 200
        answer = hurried.request("POST", path, asked, "X-Request-Timeout-Ms: 500\r\n").answer()

    assert (refused.status, answer.status) == statuses
    assert int(refused.headers["retry-after"]) >= 1
