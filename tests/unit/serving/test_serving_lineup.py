"""What a worker serves, and how that changes: what stays, what goes, and what is left."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from bascule.core.errors import NotFound, Refused
from bascule.serving.calls import Call
from bascule.serving.execution.admission import BufferBudget
from bascule.serving.execution.resilience import ResiliencePolicy
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.counters import Counters, MetricLabels
from bascule.serving.workers import loaded_models as room
from bascule.serving.workers.loaded_models import LoadedModels


def resilience(**settings):
    return {"resilience": ResiliencePolicy(**settings)}


class Watched:
    """A loaded_models on a loop, with every engine that it ever had, by weak reference."""

    def __init__(self, running, tmp_path, monkeypatch, policies=None, **limits):
        self.running = running
        self.served = []
        self.engines, self.models, self.closed = {}, {}, {}
        self.gate = threading.Event()
        self.gate.set()
        self.loading = threading.Event()
        counters = Counters(tmp_path / "loaded_models", 1)
        for name in "abcdef":
            counters.name(MetricLabels(name, "1"))
        whole = room.open_engine

        def open_engine(model, loop):
            self.loading.set()
            assert self.gate.wait(10)
            engine = whole(model, loop)
            self.engines[model.name] = weakref.ref(engine.batcher)  # an engine takes none
            self.models[model.name] = weakref.ref(model)
            return engine

        close = room._close

        def closing(engine):
            self.closed[engine.by.model] = threading.current_thread().name
            close(engine)

        monkeypatch.setattr(room, "open_engine", open_engine)
        monkeypatch.setattr(room, "_close", closing)

        def make():
            return LoadedModels(
                counters, 0, Limits(**limits), running.loop, self._serve,
                policies=policies or {}, held=BufferBudget(1 << 30),
            )  # fmt: skip

        self.loaded_models = running.on_loop(make)

    def _serve(self, models):
        self.served.append([model.name for model in models])

    def start(self, *services):
        self.running.on_loop(lambda: self.loaded_models.start(services))

    def prepare(self, number, *services):
        return asyncio.run_coroutine_threadsafe(
            self.loaded_models.prepare(number, services), self.running.loop
        )

    def turn(self, number, *services):
        assert self.prepare(number, *services).result(10)
        self.running.on_loop(lambda: self.loaded_models.commit(number))

    def until_gone(self, name):
        """Without the collector: what is in no ring goes by itself, and at once."""
        gc.disable()
        try:
            self.running.until(lambda: self.engines[name]() is None)
            if name not in self.running.on_loop(self.known):
                self.running.until(lambda: self.models[name]() is None)
        finally:
            gc.enable()
        # To take a model apart, or to end its process, may take long: not on the event loop.
        assert self.closed[name].startswith("bascule-loader")

    def known(self):
        return [one["model"] for one in self.loaded_models.tell()]

    def in_memory(self):
        told = self.running.on_loop(self.loaded_models.tell)
        return [one["model"] for one in told if one["is_loaded"]]


@pytest.fixture
def watched(serve_routes, tmp_path, monkeypatch):
    def make(**more):
        return Watched(serve_routes({}), tmp_path, monkeypatch, **more)

    return make


@pytest.fixture
def service(cancer_bundle):
    return lambda name: ModelSpec(name, "1", cancer_bundle)


def test_what_stays_is_kept_as_it_is_and_what_goes_leaves_nothing(watched, service):
    line = watched()
    line.start(service("a"), service("b"))
    kept = line.engines["a"]()

    line.turn(1, service("c"), service("a"))

    assert line.served == [["a", "b"], ["c", "a"]]
    assert line.engines["a"]() is kept
    line.until_gone("b")


def test_until_the_turn_nothing_changes_and_what_is_given_up_leaves_nothing(watched, service):
    line = watched()
    line.start(service("a"))
    assert line.prepare(1, service("b")).result(10)
    assert line.served == [["a"]]
    line.running.on_loop(lambda: line.loaded_models.abandon(1))
    line.until_gone("b")
    assert line.served == [["a"]]
    line.turn(2, service("a"), service("b"))
    assert line.served[-1] == ["a", "b"]


def test_a_change_that_is_given_up_while_it_loads_leaves_nothing(watched, service):
    line = watched()
    line.start(service("a"))
    line.gate.clear()
    line.loading.clear()
    preparing = line.prepare(1, service("b"), service("c"))
    assert line.loading.wait(10)
    line.running.on_loop(lambda: line.loaded_models.abandon(1))
    line.gate.set()
    assert preparing.result(10) is False
    line.until_gone("b")
    assert "c" not in line.engines, "what was not begun is not begun"


def test_where_one_cannot_be_loaded_the_others_are_let_go_of(watched, service, tmp_path):
    line = watched()
    line.start(service("a"))
    with pytest.raises(NotFound, match="no bundle at"):
        line.prepare(1, service("b"), ModelSpec("c", "1", tmp_path / "gone")).result(10)
    line.until_gone("b")
    assert line.served == [["a"]]


def test_with_a_budget_those_that_were_asked_last_stay_in_memory(watched, service, monkeypatch):
    # What a process has resident moves by itself; by their files all of them are of one size.
    monkeypatch.setattr(room, "resident_bytes", lambda pid=None: 0)
    line = watched(memory_budget_mb=1_000)
    line.start(service("a"))
    (size,) = [one["size_bytes"] for one in line.running.on_loop(line.loaded_models.tell)]

    line.loaded_models._budget_bytes = int(size * 2.5)
    line.turn(1, service("a"), service("b"))
    assert line.in_memory() == ["a", "b"]
    line.turn(2, service("a"), service("b"), service("c"))
    assert line.in_memory() == ["b", "c"]
    line.until_gone("a")


def test_what_turns_out_larger_than_its_file_is_put_to_sleep_at_the_start_too(
    watched, service, monkeypatch
):
    before_and_after = iter(range(0, 10**10, 20_000_000))
    monkeypatch.setattr(room, "resident_bytes", lambda pid=None: next(before_and_after))
    line = watched(memory_budget_mb=50)
    line.start(*map(service, "abcd"))
    told = {one["model"]: one for one in line.running.on_loop(line.loaded_models.tell)}
    assert [told[name]["size_bytes"] for name in "abc"] == [20_000_000] * 3
    assert [name for name in told if told[name]["is_loaded"]] == ["a", "b"]
    line.until_gone("c")
    assert "d" not in line.engines, "it is not loaded in vain"


def test_a_model_with_a_policy_goes_like_any_other(watched, service):
    line = watched(policies={"b": resilience(fallback="a")})
    line.start(service("a"), service("b"))
    line.turn(1, service("a"))
    line.until_gone("b")


def test_a_call_that_chose_a_version_before_it_left_is_answered_and_leaves_nothing(
    watched, service
):
    line = watched()
    line.start(service("a"))
    (late,) = line.running.on_loop(lambda: list(line.loaded_models._models.values()))
    line.turn(1, service("b"))
    line.running.until(lambda: line.engines["a"]() is None)

    answers = []
    columns = {name: values[:1] for name, values in late.example.items()}
    line.running.on_loop(lambda: late.answer(Call(columns, 1), None, 10.0, answers.append))
    line.running.until(lambda: answers)
    assert answers[0].by.model == "a"
    line.running.until(lambda: late.engine is None and line.engines["a"]() is None)
    assert line.in_memory() == ["b"]


def test_a_fallback_must_take_and_give_the_same(watched, service, regressor_bundle):
    line = watched(policies={"a": resilience(fallback="c"), "d": resilience(fallback="a")})
    line.start(service("a"), service("d"))
    other = ModelSpec("c", "1", regressor_bundle)
    with pytest.raises(Refused, match="c/1 cannot be the fallback of a/1"):
        line.prepare(1, service("a"), other).result(10)
    line.until_gone("c")
    line.turn(2, service("d"), other)
    assert line.served[-1] == ["d", "c"]


def test_a_model_that_is_loaded_without_end_makes_the_worker_leave(watched, service, monkeypatch):
    line = watched()
    line.start(service("a"))
    line.gate.clear()
    line.loading.clear()
    loading = line.prepare(1, service("a"), service("b"))
    assert line.loading.wait(10)
    line.running.on_loop(line.loaded_models.tick)
    assert not line.loaded_models.is_stuck
    monkeypatch.setattr(room, "LOAD_TIMEOUT_S", -1.0)
    line.running.on_loop(line.loaded_models.tick)
    assert line.loaded_models.is_stuck
    line.gate.set()
    assert loading.result(10)
