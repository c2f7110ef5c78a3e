"""Texts on two hosts of one catalogue: a budget, a judge, and streams whose ground moves."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import openai
import psutil
import pytest
from tests.chat_models import answered_texts
from tests.events import Events
from tests.homes import finished
from tests.ledger_rows import take_in
from tests.stores import open_stores
from tests.upstreams import DONE, FINE, HEAD, USAGE, event, sending, upstream
from tests.waiting import until

import bascule
from bascule.app import open_endpoints, open_keys
from bascule.bundle.generation import UPSTREAMS
from bascule.endpoints import Arm, Plan, PlanEvent
from bascule.jobs import Task
from bascule.kinds.child import runner_of
from bascule.monitoring import Ledger
from bascule.monitoring.ledger import Sharing, connect_home, shared_of
from bascule.security import Permission
from bascule.settings import load_settings

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
VERDICT = sending(0.02, event("Score: 7"), event("", "stop"), USAGE, DONE)


@pytest.fixture
def engine(monkeypatch):
    """An upstream, which this process and those that it starts may ask."""
    with upstream() as served:
        served.behaviours = [FINE]
        for name in (UPSTREAMS, "BASCULE_UPSTREAMS"):
            monkeypatch.setenv(name, json.dumps({served.url: ""}))
        yield served


@pytest.fixture
def push(engine, tmp_path, postgresql_url):
    """`push(name)`: a new version that the upstream writes for."""
    numbers = iter(range(9))

    def made(name="chat", objects="files"):
        registry, number = open_stores(tmp_path, postgresql_url, objects), next(numbers)
        model = bascule.TextGeneration(upstream=engine.url, model=f"{name}{number}")
        bundle = bascule.pack(model, name=name, to=tmp_path / f"{number}", measure=False)
        return registry.push(bundle.path, by="ada")

    return made


class Held:
    """An upstream's answer that goes on until it may end."""

    def __init__(self):
        self.may_end = threading.Event()

    async def __call__(self, reader, writer):
        writer.write(HEAD + event("first "))
        while not self.may_end.is_set():
            writer.write(event("more "))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(event("last", "stop") + USAGE + DONE)
        await writer.drain()


def body(**fields):
    return {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], **fields}


def ask(port, headers=None, **fields):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", CHAT, json.dumps(body(**fields)), headers or {})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Bascule-Version"), answer.read()


class Stream(Events):
    """A stream of chat completions."""

    def __init__(self, port, headers=None, **fields):
        super().__init__(port, CHAT, body(stream=True, **fields), headers)
        self.first = next(self)

    def rest(self):
        """All that is still sent, `[DONE]` and errors too."""
        return self.answer.read().decode()


# -- budgets --


@pytest.fixture
def bounded(push, serve, tmp_path, postgresql_url):
    """Two servers of two workers; a caller has 1,000 tokens a day of both together."""
    push()
    env = {
        "BASCULE_HOME": str(tmp_path), "BASCULE_REGISTRY__STORE": postgresql_url,
        "BASCULE_POLICIES": json.dumps({"chat": {"tokens_per_day": 1_000}}),
    }  # fmt: skip
    return [serve("chat/1", "--workers=2", env=env) for _ in range(2)]


def test_eight_callers_of_two_servers_have_the_budget_of_one_and_no_more(bounded):
    def until_refused(server):
        count = refused = 0
        while refused < 5:
            status, *_ = ask(server.port, max_tokens=20)
            refused = refused + 1 if status == 429 else 0
            count += status == 200
            assert status in (200, 429)
        return count

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(until_refused, bounded * 4))
    each = 9  # as the upstream counts; a call takes about 45 until it has ended
    assert 1_000 - 4 * 45 <= answered * each <= 1_000


def test_tokens_that_an_answer_on_one_server_gives_back_are_had_from_the_other(engine, bounded):
    one, other = bounded
    held = Held()
    engine.behaviours = [held, FINE]
    given = {"messages": body()["messages"], "max_tokens": 900}
    prompt = -(-len(msgspec.json.encode(given)) // 4)
    with Stream(one.port, max_tokens=1_000 - prompt) as stream:  # all that there is
        until(lambda: ask(other.port, max_tokens=300)[0] == 429)
        held.may_end.set()
        assert "[DONE]" in stream.rest()
    until(lambda: ask(other.port, max_tokens=300)[0] == 200, 20)


# -- a judge --


@pytest.fixture
def hosts(engine, push, tmp_path, postgresql_url, s3_url):
    """Runners of jobs of two hosts, whose ledgers are one, with 80 answers to judge."""
    push("judge", s3_url)
    runners = []
    for name in ("a", "b"):
        home = tmp_path / name
        home.mkdir()
        (home / "bascule.toml").write_text(
            f'home = "."\n[registry]\nstore = "{postgresql_url}"\nobjects = "{s3_url}"\n'
            '[judges.strict]\nmodel = "judge/1"\nshare = 1.0\n'
        )
        connect_home(home, s3_url)
        runners.append(SimpleNamespace(home=home, jobs=runner_of(load_settings(home, {}))))
    ids = [f"a{number}" for number in range(80)]
    answered_texts(runners[0].home, ids, [T0] * 80, ["hi"] * 80, arm="", version="1")
    take_in(runners[0].home, Sharing(shared_of(runners[0].home), every_s=0))
    engine.asked.clear()
    engine.behaviours = [VERDICT]
    return runners


def judging(host):
    task = Task(
        kind="judge_answers", input={"model": "chat", "judge": "strict"}, by="me", folder="."
    )
    return host.jobs.submit(task).id


def test_of_two_jobs_at_once_one_pays_and_the_next_host_pays_for_nothing(hosts, engine):
    a, b = hosts
    with ThreadPoolExecutor(2) as pool:
        both = [*pool.map(judging, hosts)]
    finished(a.jobs)
    ended = [a.jobs.get(job) for job in both]
    assert sorted(job.state for job in ended) == ["done", "failed"], ended
    assert (
        "under way in another process" in next(filter(None, (job.error for job in ended)))["error"]
    )
    assert len(engine.asked) == 80
    for host in (a, b):
        again = judging(host)
        finished(host.jobs)
        assert host.jobs.get(again).result == {"judged": 0, "unusable": 0}
    assert len(engine.asked) == 80


def test_a_job_whose_process_is_killed_has_paid_for_a_group_that_another_host_pays_again(
    hosts, engine
):
    a, b = hosts
    killed = judging(a)
    until(lambda: a.jobs.get(killed).progress.get("done", 0) >= 32)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "bascule.kinds.child" in child.cmdline():
                child.kill()
    finished(a.jobs)
    again = judging(b)
    finished(b.jobs)
    judged = b.jobs.get(again).result["judged"]
    assert judged <= 80 - 32
    assert len(engine.asked) <= 80 + 32
    sql = "SELECT count(*) n FROM outcome_history WHERE model = '_judge.strict' GROUP BY id"
    times = Ledger(b.home).query(sql)["n"].to_pylist()
    assert (len(times), set(times)) == (80, {1})


# -- streams --


@pytest.fixture
def served(engine, push, serve, tmp_path, postgresql_url):
    """A server of the endpoint chat, of two versions, that asks for keys."""
    for _ in range(2):
        push()
    env = {
        "BASCULE_HOME": str(tmp_path), "BASCULE_REGISTRY__STORE": postgresql_url,
        "BASCULE_SECURITY__CALLERS": "keys",
    }  # fmt: skip
    settings = load_settings(tmp_path, env)
    endpoints = open_endpoints(settings)
    endpoints.deploy("chat/1", by="ada")
    server = serve("chat", env=env)
    server.endpoints, server.settings = endpoints, settings
    keys, rights = open_keys(settings), [Permission("infer", "chat")]
    server.key, server.token = keys.create("ada", rights, by="root")
    server.headers = {"Authorization": f"Bearer {server.token}"}
    until(lambda: ask(server.port, server.headers)[0] == 200)
    return server


def version_of(server):
    status, _, answer = ask(server.port, server.headers)
    assert status == 200, answer
    return json.loads(answer)["system_fingerprint"]


def applied(server, number, *arms):
    """A plan as a rollout makes it, once it is served."""
    event = PlanEvent("changed", datetime.now(UTC), "ada", "", "a rollout")
    server.endpoints.apply(Plan("chat", number, arms), event)
    version = max(arms, key=lambda arm: arm.share_percent).version
    until(lambda: version_of(server).startswith(version))


def test_a_stream_of_a_candidate_goes_on_when_its_rollout_is_aborted(served, engine):
    arms = Arm("current", "chat/1", 0.0), Arm("candidate", "chat/2", 100.0)
    applied(served, 2, *arms)
    held = Held()
    engine.behaviours = [held, FINE]
    with Stream(served.port, served.headers) as stream:
        assert stream.first[1]["system_fingerprint"].startswith("chat/2")
        applied(served, 3, Arm("current", "chat/1", 100.0))
        held.may_end.set()
        assert stream.rest().rstrip().endswith("[DONE]")


def test_a_stream_ends_with_the_version_that_it_began_with_when_its_endpoint_moves(served, engine):
    held = Held()
    engine.behaviours = [held, FINE]
    with Stream(served.port, served.headers) as stream:
        served.endpoints.deploy("chat/2", by="ada")
        until(lambda: version_of(served).startswith("chat/2"))
        open_stores(served.settings.home, served.settings.registry.store).retire(
            "chat", 1, by="ada", reason="old"
        )
        held.may_end.set()
        rest = stream.rest()
    assert "chat/2" not in rest
    assert rest.rstrip().endswith("[DONE]"), rest[-300:]
    assert "last" in rest


def test_a_stream_whose_key_is_revoked_ends_with_an_error_and_so_does_its_engine(served, engine):
    engine.asked.clear()
    engine.behaviours = [Held()]
    with Stream(served.port, served.headers) as stream:
        open_keys(served.settings).end(served.key.id, by="root")
        rest = stream.rest()
    assert "revoked" in rest
    assert "[DONE]" not in rest
    until(lambda: engine.asked[0].left_s, 10)


def test_async_streams_that_all_go_at_once_end_their_engines_work(served, engine):
    engine.asked.clear()
    engine.behaviours = [Held()]

    async def drop_all():
        place = f"http://127.0.0.1:{served.port}/v1"
        async with openai.AsyncOpenAI(base_url=place, api_key=served.token) as client:
            create = client.chat.completions.create
            streams = await asyncio.gather(*(create(**body(stream=True)) for _ in range(40)))
            for stream in streams:
                await anext(aiter(stream))
            await asyncio.gather(*(stream.close() for stream in streams))

    asyncio.run(drop_all())
    until(lambda: len(engine.asked) == 40 and all(one.left_s for one in engine.asked), 10)
    engine.behaviours = [FINE]
    assert version_of(served).startswith("chat/1")


def test_a_server_that_is_stopped_lets_a_stream_end(served, engine):
    held = Held()
    engine.behaviours = [held]
    with Stream(served.port, served.headers) as stream:
        served.process.terminate()
        until(lambda: refuses(served.port))
        held.may_end.set()
        assert stream.rest().rstrip().endswith("[DONE]")
    assert served.process.wait(20) == 0


def refuses(port):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        try:
            connection.connect()
        except OSError:
            return True
    return False
