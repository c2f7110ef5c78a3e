"""Streams over the brokers themselves: NATS's own server, and the mock cluster of librdkafka.

The mock cluster takes transactions, and shows to all what is in one that was not committed: that
consumers see each answer once is Kafka's own part, which is not tested here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.stores import free_ports

from bascule.batch import (
    MonitoringRules,
    Streamed,
    StreamJob,
    run_stream,
    serve_metrics,
    take_outcomes,
)
from bascule.batch.streams.port import Address, Message, Reply
from bascule.core import Invalid
from bascule.monitoring import Outcomes
from bascule.monitoring.ledger import Ledger

from .conftest import flights

RECORDED = MonitoringRules(is_recorded=True, version="1")


class Broker:
    """What a test does with a broker, by the client of the broker alone."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, topic: str, values: Sequence[bytes]) -> None: ...

    def read(self, topic: str, count: int) -> list[tuple[dict[str, str], bytes]]: ...


class Kafka(Broker):
    def put(self, topic: str, values: Sequence[bytes]) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.url.partition("://")[2], "log_level": 2})
        for number, value in enumerate(values):
            producer.produce(topic, value, key=f"k{number}".encode())
        assert producer.flush(30) == 0

    def read(self, topic: str, count: int) -> list[tuple[dict[str, str], bytes]]:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer = Consumer(
            {"bootstrap.servers": self.url.partition("://")[2], "group.id": "it is in none",
             "enable.auto.commit": False, "log_level": 2}
        )  # fmt: skip
        # A group takes three seconds to take in a member.
        parts = consumer.list_topics(topic, 30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, part, OFFSET_BEGINNING) for part in parts])
        found: list[tuple[dict[str, str], bytes]] = []
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s and len(found) < count:
            for one in consumer.consume(count - len(found), 1.0):
                assert one.error() is None, one.error()
                headers = {name: value.decode() for name, value in one.headers() or ()}
                found.append((headers, one.value()))
        found += [(dict(one.headers() or ()), one.value()) for one in consumer.consume(1, 0.5)]
        consumer.close()
        return found


class Nats(Broker):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._do(lambda stream: stream.add_stream(name="all", subjects=["flights", "scored.>"]))
        self._do(lambda stream: stream.add_stream(name="truths", subjects=["truths"]))

    def _do(self, act: Callable[[Any], Any]) -> Any:
        import nats

        async def done() -> Any:
            client = await nats.connect(self.url)
            try:
                return await act(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(done())

    def put(self, topic: str, values: Sequence[bytes]) -> None:
        async def send(stream: Any) -> None:
            for value in values:
                await stream.publish(topic, value)

        self._do(send)

    def read(self, topic: str, count: int) -> list[tuple[dict[str, str], bytes]]:
        async def read(stream: Any) -> Any:
            pull, found = await stream.pull_subscribe(topic), []
            try:
                while True:  # until nothing came for a while after the last of them
                    within_s = 2 if len(found) < count else 0.5
                    found += await pull.fetch(100, timeout=within_s)
            except TimeoutError:
                return [(one.headers or {}, one.data) for one in found]

        found: list[tuple[dict[str, str], bytes]] = self._do(read)
        return found


@contextmanager
def mock_cluster() -> Iterator[str]:
    from confluent_kafka import Producer

    cluster = Producer({"bootstrap.servers": "-", "test.mock.num.brokers": 1, "log_level": 2})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield f"kafka://{broker.host}:{broker.port}"
    del cluster


@pytest.fixture(scope="module")
def kafka() -> Iterator[Broker]:
    with mock_cluster() as url:
        yield Kafka(url)


@contextmanager
def nats_server(port: int, folder: Path) -> Iterator[None]:
    server = shutil.which("nats-server") or "/usr/sbin/nats-server"
    command = [server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until_s = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < until_s
                    time.sleep(0.05)
            yield
        finally:
            process.kill()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Broker]:
    (port,) = free_ports(1)
    with nats_server(port, tmp_path / "js"):
        yield Nats(f"nats://127.0.0.1:{port}")


@pytest.fixture(params=["kafka", "nats"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def names(broker: Broker) -> Mapping[str, str]:
    """Topics of a test: those of the mock cluster are shared by all tests."""
    if isinstance(broker, Nats):
        return {"in": "flights", "out": "scored.all", "truths": "truths"}
    mark = time.time_ns()
    return {name: f"{name}{mark}" for name in ("in", "out", "truths")}


def values_of(rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [msgspec.json.encode(row) for row in rows]


def job_of(broker: Broker, names: Mapping[str, str], **options: Any) -> StreamJob:
    ends = {"source": f"{broker.url}/{names['in']}", "sink": f"{broker.url}/{names['out']}"}
    return StreamJob(**{"model": "table", "idle_s": 2.0, "record": "off"} | ends | options)


def test_each_message_is_answered_and_poison_is_a_dead_letter(broker, names, bundle, tmp_path):
    rows = flights(120).to_pylist()
    bad = [b"{", b"[1]", *values_of([rows[0] | {"gust": "strong"}, rows[0] | {"airport": "XXX"}])]
    values = values_of(rows)
    broker.put(names["in"], values[:60] + bad + values[60:])
    done = run_stream(job_of(broker, names, batch_rows=50), bundle, tmp_path)
    assert (done.messages, done.quarantined) == (124, 4)
    found = sorted((json.loads(v) for _, v in broker.read(names["out"], 120)), key=_id)
    direct = bundle.predict(flights(120).drop_columns("id"))
    assert [one["id"] for one in found] == list(range(120))
    assert [one["label"] for one in found] == direct["label"].tolist()
    assert {one["model_version"] for one in found} == {bundle.digest[7:19]}
    assert len({one["prediction_id"] for one in found}) == 120
    dead = broker.read(f"{names['out']}.quarantine", 4)
    assert sorted(value for _, value in dead) == sorted(bad)
    assert all(headers["bascule-reason"] for headers, _ in dead)
    if isinstance(broker, Nats):  # the mock cluster keeps no offsets of transactions
        again = run_stream(job_of(broker, names, idle_s=2.0), bundle, tmp_path)
        assert again.messages == 0


def test_offsets_are_committed_behind_answers_to_another_cluster_of_kafka(
    kafka, bundle, tmp_path, monkeypatch
):
    # The mock cluster lets a member go only when its session times out: 45 s unless it is set.
    (tmp_path / "kafka.properties").write_text("session.timeout.ms=6000\n")
    monkeypatch.setenv("BASCULE_KAFKA_PROPERTIES", str(tmp_path / "kafka.properties"))
    with mock_cluster() as url:
        kafka.put("elsewhere", values_of(flights(40).to_pylist()))
        ends = {"source": f"{kafka.url}/elsewhere", "sink": f"{url}/out"}
        job = StreamJob(model="table", idle_s=2.0, record="off", **ends)
        assert run_stream(job, bundle, tmp_path).messages == 40
        kafka.put("elsewhere", values_of(flights(3).to_pylist()))
        assert run_stream(job, bundle, tmp_path).messages == 3  # it joined, and took the new ones


def _id(row: Mapping[str, Any]) -> int:
    return int(row["id"])


def test_a_message_that_comes_again_has_the_same_prediction_id(bundle):
    from bascule.batch.streams.running import _MessageScorer

    row = values_of(flights(1).to_pylist())[0]
    job = StreamJob(model="table", source="kafka://h/in", sink="kafka://h/out")
    first, second, other = (
        _MessageScorer(job, bundle, version).replies([Message(None, row, "in/0", number)])[0][0]
        for version, number in (("1", 7), ("2", 7), ("2", 7 + (1 << 20)))
    )
    assert first.id == second.id
    assert first.id != other.id


def test_a_stream_that_is_killed_before_it_commits_doubles_nothing_in_jetstream(
    nats, bundle, tmp_path, monkeypatch
):
    """The answer is in the sink and the offset is not: JetStream knows the answer by its id."""
    from bascule.batch.streams.nats import NatsSubscription

    names = {"in": "flights", "out": "scored.all"}
    nats.put("flights", values_of(flights(10).to_pylist()))
    commit = NatsSubscription.commit

    class Killed(BaseException):
        pass

    def killed(self: Any, messages: Sequence[Message]) -> None:
        raise Killed

    monkeypatch.setattr(NatsSubscription, "commit", killed)
    with pytest.raises(Killed):
        run_stream(job_of(nats, names), bundle, tmp_path)
    monkeypatch.setattr(NatsSubscription, "commit", commit)
    done = run_stream(job_of(nats, names, idle_s=4.0), bundle, tmp_path)
    assert done.messages == 10
    assert len(nats.read("scored.all", 10)) == 10


def test_a_broker_that_is_away_for_a_while_loses_no_message(nats, bundle, tmp_path, monkeypatch):
    from bascule.batch.streams.nats import NatsPublisher
    from bascule.core import Unavailable

    names = {"in": "flights", "out": "scored.all"}
    nats.put("flights", values_of(flights(10).to_pylist()))
    publish, failures = NatsPublisher.publish, [1]

    def failing(self: Any, replies: Sequence[Reply], *rest: Any) -> None:
        if failures:
            failures.pop()
            raise Unavailable("it is away")
        publish(self, replies, *rest)

    monkeypatch.setattr(NatsPublisher, "publish", failing)
    done = run_stream(job_of(nats, names, idle_s=4.0), bundle, tmp_path)
    assert done.messages == 10
    assert len(nats.read("scored.all", 10)) == 10


def test_answers_of_a_stream_are_in_the_ledger_and_its_outcomes_come_from_a_topic(
    broker, names, bundle, tmp_path
):
    broker.put(names["in"], values_of(flights(30).to_pylist()))
    job = job_of(broker, names, record="rows")
    run_stream(job, bundle, tmp_path, monitoring=RECORDED, version="1")
    scored = [json.loads(value) for _, value in broker.read(names["out"], 30)]
    truths = [{"id": one["prediction_id"], "truth": True} for one in scored]
    broker.put(names["truths"], [*values_of(truths), b"no outcome", b'{"truth": true}'])
    job = job_of(broker, names, source=f"{broker.url}/{names['truths']}")
    done = take_outcomes(job, Outcomes(tmp_path).add_rows)
    assert (done.messages, done.quarantined) == (32, 2)
    found = Ledger(tmp_path).query(
        "SELECT count(*) AS n FROM outcomes JOIN predictions USING (id, row)"
    )
    assert found.to_pylist() == [{"n": 30}]


def test_a_server_that_is_killed_and_started_again_loses_and_doubles_no_message(bundle, tmp_path):
    (port,) = free_ports(1)
    stopped, done = threading.Event(), list[Any]()
    job = job_of(Broker(f"nats://127.0.0.1:{port}"), {"in": "flights", "out": "scored.all"})
    rows = values_of(flights(200).to_pylist())
    thread = threading.Thread(
        target=lambda: done.append(
            run_stream(replace(job, idle_s=0.0, batch_rows=7), bundle, tmp_path, stopped=stopped)
        )
    )
    with nats_server(port, tmp_path / "js"):
        Nats(f"nats://127.0.0.1:{port}").put("flights", rows[:100])
        thread.start()
    with nats_server(port, tmp_path / "js"):
        broker = object.__new__(Nats)
        broker.url = f"nats://127.0.0.1:{port}"
        broker.put("flights", rows[100:])
        until_s = time.monotonic() + 120
        while len(found := broker.read("scored.all", 200)) < 200:
            assert time.monotonic() < until_s
        stopped.set()
        thread.join()
    ids = sorted(json.loads(value)["id"] for _, value in found)
    assert ids == list(range(200))


@pytest.mark.parametrize("stops", [True, False])
def test_a_stream_runs_until_it_is_stopped(nats, bundle, tmp_path, stops):
    nats.put("flights", values_of(flights(5).to_pylist()))
    stopped = threading.Event()
    names = {"in": "flights", "out": "scored.all"}
    job = job_of(nats, names, idle_s=0.0 if stops else 2.0)

    def watch(done: Streamed) -> None:
        if stops and done.messages:
            stopped.set()

    done = run_stream(job, bundle, tmp_path, stopped=stopped, watch=watch)
    assert done.messages == 5


def test_a_stream_keeps_a_name_of_its_own_when_it_is_opened_again(
    nats, bundle, tmp_path, monkeypatch
):
    """Kafka ends the transactions of a producer when another one has its name."""
    from bascule.batch.streams import running
    from bascule.core import Unavailable

    nats.put("flights", values_of(flights(5).to_pylist()))
    opened, names = running.open_publisher, list[str]()

    def failing_once(address: Address, source: Any, name: str) -> Any:
        names.append(name)
        if len(names) == 1:
            raise Unavailable("it is away")
        return opened(address, source, name)

    monkeypatch.setattr(running, "open_publisher", failing_once)
    job = job_of(nats, {"in": "flights", "out": "scored.all"}, idle_s=0.5)
    done = [run_stream(job, bundle, tmp_path) for _ in range(2)]
    assert [(one.messages, one.faults) for one in done] == [(5, 1), (0, 0)]
    assert names[0] == names[1] != names[2]


def test_a_stream_says_how_many_messages_wait(broker, names, bundle, tmp_path):
    broker.put(names["in"], values_of(flights(30).to_pylist()))
    seen = list[tuple[int, int]]()

    def watch(done: Streamed) -> None:
        seen.append((done.messages, done.lag))

    run_stream(job_of(broker, names, batch_rows=10, idle_s=1.0), bundle, tmp_path, watch=watch)
    assert max(messages + lag for messages, lag in seen if messages) == 30
    assert max(lag for _, lag in seen) > 0
    assert seen[-1] == (30, 0)


@pytest.mark.parametrize("address", ["9105", "127.0.0.1:http", "127.0.0.1:99999"])
def test_metrics_have_an_address(address):
    job = StreamJob(model="table", source="kafka://h/in", sink="kafka://h/out")
    with pytest.raises(Invalid, match="metrics"):
        serve_metrics(job, address)


@pytest.mark.parametrize("text", ["http://h/t", "file://h/t"])
def test_what_is_no_stream_is_refused(bundle, tmp_path, text):
    job = StreamJob(model="table", source=text, sink="kafka://h/out", record="off")
    with pytest.raises(Invalid, match="stream"):
        run_stream(job, bundle, tmp_path)


def test_a_subject_of_no_stream_is_an_error_and_not_waited_for(nats, bundle, tmp_path):
    with pytest.raises(Invalid, match="no stream has this subject"):
        run_stream(job_of(nats, {"in": "unknown", "out": "scored.all"}), bundle, tmp_path)


@pytest.mark.parametrize("text", ["kafka://h:1", "kafka:///topic", "flights"])
def test_an_address_names_a_broker_and_a_topic(text):
    with pytest.raises(Invalid, match="names no broker and topic"):
        Address.of(text)


def test_passwords_of_brokers_are_not_shown():
    assert "secret" not in Address.of("nats://me:secret@h:4222/s").place


def test_the_command_scores_until_it_is_told_to_stop(nats, table_bundle, tmp_path):
    nats.put("flights", [*values_of(flights(20).to_pylist()), b"{"])
    (port,) = free_ports(1)
    command = [
        sys.executable, "-m", "bascule.cli", "batch", "stream", str(table_bundle),
        "--from", f"{nats.url}/flights", "--to", f"{nats.url}/scored.all", "--json",
        "--metrics", f"127.0.0.1:{port}",
    ]  # fmt: skip
    environment = os.environ | {"BASCULE_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        until_s = time.monotonic() + 90
        while len(nats.read("scored.all", 20)) < 20:
            assert time.monotonic() < until_s
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found = json.loads(out)
    assert (found["messages"], found["quarantined"], found["lag"]) == (21, 1, 0)
    labels = f'{{model="{table_bundle}",source="{nats.url}/flights"}}'
    assert f"bascule_stream_messages_total{labels} 21.0" in text
    assert f"bascule_stream_quarantined_total{labels} 1.0" in text
    assert f"bascule_stream_lag{labels} 0.0" in text
