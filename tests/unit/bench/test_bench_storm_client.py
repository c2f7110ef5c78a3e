"""The load generator against a small server that answers as the test wants."""

import asyncio
import json
import threading
import time

import pytest
import uvloop
from bench.storm.client import Plan, Run

TRUTHS = [[0.25], [0.5]]


@pytest.fixture
def serve():
    """Starts servers that call `answer(row_number)` for (status, headers, numbers, delay_s)."""
    stops = []

    def start(answer):
        ready, port = threading.Event(), []

        async def handle(reader, writer):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    row = int(await reader.readexactly(length))
                    status, headers, numbers, delay_s = answer(row)
                    await asyncio.sleep(delay_s)
                    if status is None:
                        break
                    body = json.dumps({"outputs": [{"name": "p", "data": numbers}]}).encode()
                    writer.write(
                        b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b"
                        % (status, headers, len(body), body)
                    )
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        async def main():
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            port.append(server.sockets[0].getsockname()[1])
            stop = asyncio.Event()
            stops.append((asyncio.get_running_loop(), stop, threading.current_thread()))
            ready.set()
            await stop.wait()
            server.close()

        threading.Thread(target=asyncio.run, args=(main(),)).start()
        assert ready.wait(10)
        return port[0]

    yield start
    for loop, stop, thread in stops:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def plan(port, **other):
    facts = {
        "port": port,
        "path": "/",
        "bodies": ["0", "1"],
        "truths": TRUTHS,
        "output": "p",
        "due_s": [n / 100 for n in range(20)],
        "clients": 0,
        "seconds": 0.2,
        "connections": 4,
    }
    return Plan(**{**facts, **other})


def go(asked):
    return uvloop.run(Run(asked).go())


def right(row):
    return 200, b"", TRUTHS[row], 0.0


def test_everything_due_is_asked_and_every_answer_is_that_of_its_row(serve):
    seen = go(plan(serve(right)))

    assert (seen.due, seen.accepted, seen.errors, seen.unsent) == (20, 20, 0, 0)


def test_the_answer_to_another_row_is_wrong(serve):
    seen = go(plan(serve(lambda row: (200, b"", TRUTHS[0], 0.0))))

    assert (seen.accepted, seen.wrong) == (10, 10)


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_could_be_sent(serve):
    """One connection, 20 ms an answer, one due every 10 ms: the last waits for all before it."""
    slow = serve(lambda row: (200, b"", TRUTHS[row], 0.02))
    seen = go(plan(slow, connections=1))

    assert seen.accepted == 20
    assert max(seen.accepted_ms) > 150


def test_what_could_not_be_sent_within_the_deadline_is_given_up_and_counted(serve):
    slow = serve(lambda row: (200, b"", TRUTHS[row], 0.1))
    seen = go(plan(slow, connections=1, deadline_s=0.05))

    assert seen.unsent > 0
    assert seen.unsent + sum(seen.statuses.values()) == seen.due


@pytest.mark.parametrize(("headers", "missing"), [(b"Retry-After: 1\r\n", 0), (b"", 20)])
def test_being_turned_away_without_a_time_to_come_back_is_counted(serve, headers, missing):
    seen = go(plan(serve(lambda row: (429, headers, [], 0.0))))

    assert (seen.shed, seen.shed_without_retry_after, seen.accepted) == (20, missing, 0)


def test_a_connection_that_ends_without_an_answer_is_broken_and_another_is_made(serve):
    asked = iter(range(100))
    seen = go(plan(serve(lambda row: (None if next(asked) == 3 else 200, b"", TRUTHS[row], 0.0))))

    assert (seen.broken, seen.accepted) == (1, 19)


def test_a_closed_loop_never_has_more_under_way_than_clients(serve):
    under_way, most = [], []

    def answer(row):
        under_way.append(time.perf_counter())
        most.append(sum(at > time.perf_counter() - 0.009 for at in under_way))
        return 200, b"", TRUTHS[row], 0.01

    seen = go(plan(serve(answer), due_s=[], clients=3, connections=0))

    assert seen.accepted == seen.due > 6
    assert max(most) <= 3


def test_a_network_that_is_played_adds_its_delay_both_ways(serve):
    seen = go(plan(serve(right), one_way_s=0.02))

    assert seen.accepted == 20
    assert min(seen.accepted_ms) >= 40
