"""A model in a process of its own may do what it likes, and only its own call suffers."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import psutil
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from tests.tiers import first_of
from tests.waiting import until

from bascule.bundle.programs import host
from bascule.bundle.programs.child import ChildProgram
from bascule.bundle.programs.host import decode, encode
from bascule.core.errors import Invalid, ModelFailed, TimedOut, Unavailable
from bascule.core.fields import DType, Field

CODE = """
import os, sys, time
import numpy as np

class Model:
    def load(self, files):
        self.factor = float((files / "factor").read_text())
        print("loading")

    def predict(self, columns):
        x, word = columns["x"], columns["word"][0]
        print("predicting")
        if word == "exit":
            os._exit(7)
        if word == "hang":
            time.sleep(60)
        if word == "raise":
            raise KeyError("secret")
        if word == "leave":
            raise SystemExit("secret")
        if word == "thread":
            import threading
            def fail():
                raise ValueError("secret")
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            raise KeyError("secret") from ValueError("secret")
        if word == "refuse":
            import bascule
            raise bascule.Invalid("word: not this one", hint="send another")
        if word == "short":
            return x[:-1]
        if word == "floats":
            return {"twice": x.astype(np.float32), "words": columns["word"]}
        if word == "wide":
            return {"twice": np.c_[x, x], "words": columns["word"]}
        if word == "lacking":
            return {"words": columns["word"]}
        if word == "nonsense":
            os.write(3, b"x"); sys.exit(0)
        if word == "environment":
            return {"twice": x, "words": np.array([",".join(sorted(os.environ))] * len(x), object)}
        return {"twice": x * self.factor, "words": columns["word"]}

class Streaming(Model):
    def predict_stream(self, columns):
        try:
            for number, word in enumerate(columns["word"]):
                if word == "exit":
                    os._exit(7)
                if word == "raise":
                    raise KeyError("secret")
                if word == "floats":
                    yield {"twice": np.float32([number]), "words": [word]}
                yield {"twice": [number * self.factor] * 2, "words": [word] * 2}
        finally:
            print("closed", file=sys.stderr)

class Broken:
    def __init__(self):
        raise RuntimeError("no weights")

class Hinted:
    def __init__(self):
        problem = RuntimeError("no weights")
        problem.hint = "bring them"
        raise problem

class Fatal:
    def __init__(self):
        os.kill(os.getpid(), 11)
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine.py").write_text(CODE)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/factor").write_text("2")
    started = []

    def child(entry="mine:Model", **settings):
        started.append(
            ChildProgram(
                ["class", str(tmp_path), entry],
                name="mine",
                inputs=(Field("x", DType.FP64), Field("word", DType.BYTES, nullable=True)),
                outputs=(Field("twice", DType.FP64), Field("words", DType.BYTES)),
                **settings,
            )
        )
        return started[-1]

    child.forget = started.clear
    yield child
    for program in started:
        program.close()


def rows(*words):
    return {
        "x": np.arange(len(words), dtype=np.float64),
        "word": np.array([*words, None], object)[:-1],
    }


def test_it_answers_with_numbers_and_texts_and_only_what_was_asked(start):
    program = start()
    found = program.run(rows("a", None, "ü"))
    assert found["twice"].tolist() == [0, 2, 4]
    assert found["words"].tolist() == ["a", None, "ü"]
    assert list(program.run(rows("a"), ["words"])) == ["words"]


def test_more_than_a_pipe_holds_goes_both_ways(start):
    columns = rows(*["word"] * 300_000)
    assert np.array_equal(start().run(columns)["twice"], columns["x"] * 2)


@pytest.mark.parametrize("word", first_of(["raise", "leave", "thread"]))
def test_what_code_says_when_it_fails_is_not_written_where_that_is_hidden(
    start, word, monkeypatch, capfd
):
    for hidden in (True, False):
        if hidden:
            monkeypatch.setenv(host.HIDE_TEXTS, "1")
        else:
            monkeypatch.delenv(host.HIDE_TEXTS)
        program = start()
        pid = program.pid
        with pytest.raises(ModelFailed, match=r"KeyError|SystemExit") as failed:
            program.run(rows(word))
        reason = failed.value.facts["reason"]
        assert "in predict" in reason
        assert "secret" not in reason
        assert program.run(rows("a"))["twice"].tolist() == [0]
        assert program.pid == pid
        program.close()
        said = re.search(r"(Error|Exit): '?secret", capfd.readouterr().err)
        assert (said is not None) is not hidden


def test_code_tells_its_caller_what_is_wrong_with_the_rows(start):
    with pytest.raises(Invalid, match="word: not this one") as refused:
        start().run(rows("refuse"))
    assert refused.value.hint == "send another"


def test_a_process_that_dies_fails_what_it_was_answering_and_is_started_again(start):
    program = start()
    pid = program.pid
    with pytest.raises(Unavailable, match="exit code 7"):
        program.run(rows("exit"))
    assert program.run(rows("a", "b"))["twice"].tolist() == [0, 2]
    assert program.pid != pid


def test_a_process_that_was_killed_between_calls_is_back_before_the_next_one(start):
    program = start()
    killed = program.pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: program.pid not in (None, killed))
    assert program.run(rows("a"))["words"].tolist() == ["a"]


def test_without_a_watch_whoever_comes_next_does_not_notice_it_either(start, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    program = start()
    killed = program.pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: psutil.Process(killed).status() == psutil.STATUS_ZOMBIE)
    assert program.run(rows("a"))["words"].tolist() == ["a"]
    assert program.pid != killed


def test_a_program_that_is_let_go_of_takes_its_process_along(start):
    program = start()
    threads, pid = threading.active_count(), program.pid
    left = weakref.ref(program)
    start.forget()
    del program
    until(lambda: left() is None and not psutil.pid_exists(pid))
    until(lambda: threading.active_count() < threads)


def test_a_run_that_hangs_is_ended(start):
    program = start(run_timeout_s=0.3)
    pid = program.pid
    with pytest.raises(TimedOut, match="did not answer in time"):
        program.run(rows("hang"))
    assert not psutil.pid_exists(pid)
    assert program.run(rows("a"))["words"].tolist() == ["a"]


def test_an_answer_that_has_come_is_taken_though_its_time_is_over(start, monkeypatch):
    """The server stood still meanwhile, and not the process."""
    program = start()
    pid, receive = program.pid, ChildProgram._receive

    def receive_late(self, until_s, what):
        self._wait(self._process.stdout.fileno(), select.POLLIN, until_s, what)
        return receive(self, time.monotonic() - 60, what)

    monkeypatch.setattr(ChildProgram, "_receive", receive_late)
    assert program.run(rows("a"))["words"].tolist() == ["a"]
    assert program.pid == pid


def test_one_that_dies_again_and_again_is_left_alone_for_a_while(start):
    program = start()
    for _ in range(2):
        with pytest.raises(Unavailable, match="is started again"):
            program.run(rows("exit"))
    with pytest.raises(Unavailable, match="died 2 times") as refused:
        program.run(rows("a"))
    assert refused.value.facts["retry_after_s"] == 1
    until(lambda: time.monotonic() >= program._not_before)
    assert program.run(rows("a"))["words"].tolist() == ["a"]


def test_a_model_that_cannot_be_loaded_says_why(start):
    with pytest.raises(ModelFailed, match="RuntimeError: no weights"):
        start("mine:Broken")
    with pytest.raises(ModelFailed, match="no attribute 'Nobody'"):
        start("mine:Nobody")
    with pytest.raises(ModelFailed, match="no weights") as failed:
        start("mine:Hinted")
    assert failed.value.hint == "bring them"
    with pytest.raises(Unavailable, match=r"\(signal 11\), before it had its model"):
        start("mine:Fatal")


def test_an_answer_that_is_no_frame_is_not_believed(start):
    with pytest.raises((Unavailable, ModelFailed)):
        start().run(rows("nonsense"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("floats", r"answered float32 of shape \(2,\) for twice, where it declares FP64"),
        ("wide", r"of shape \(2, 2\) for twice"),
        ("lacking", "answered nothing for twice"),
        ("short", "there are 2 rows"),
    ],
)
def test_an_answer_that_is_not_as_declared_is_not_passed_on(start, word, said):
    program = start()
    pid = program.pid
    with pytest.raises(ModelFailed, match=said):
        program.run(rows(word, word))
    assert program.run(rows("a"))["twice"].tolist() == [0]
    assert program.pid == pid


def test_the_process_does_not_see_the_servers_secrets(start, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("BASCULE_STORE", "postgresql://user:password@there/db")
    seen = start().run(rows("environment"))["words"][0].split(",")
    assert "PATH" in seen
    assert not {"AWS_SECRET_ACCESS_KEY", "BASCULE_STORE"} & set(seen)


def test_whoever_started_it_takes_it_along_when_killed(tmp_path, start):
    start().close()  # the files are there
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import time
from bascule.bundle.programs.child import ChildProgram
child = ChildProgram(["class", {str(tmp_path)!r}, "mine:Model"], name="m", inputs=(), outputs=())
print(child.pid, flush=True)
time.sleep(60)
""",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    until(lambda: not psutil.pid_exists(pid))


numbers = arrays.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
    arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
)
texts = st.lists(st.none() | st.text(max_size=5)).map(
    lambda values: np.array([*values, None], object)[:-1]
)


def framed(columns):
    return b"".join(encode({}, columns))


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_framed_where_they_lie(order):
    """A copy of a batch of 65,536 rows takes as long as many a model needs to answer it."""
    columns = {
        "x": np.asarray(np.random.default_rng(0).normal(size=(9_000, 3)), order=order),
        "none": np.empty((0, 3)),
        "word": np.array(["a", None], object),
    }
    pieces = encode({}, columns)
    assert np.shares_memory(np.frombuffer(pieces[1], np.uint8), columns["x"]) is (order == "C")
    assert int.from_bytes(pieces[0][:8], "little") == sum(map(len, pieces)) - 8
    _, found = decode(framed(columns)[8:])
    for name, column in columns.items():
        np.testing.assert_array_equal(found[name], column)
    assert len(encode({}, {"x": columns["x"][:10]})) == 1


@given(columns=st.dictionaries(st.text(max_size=5), numbers | texts, max_size=4))
def test_what_is_framed_comes_out_as_it_went_in(columns):
    _, found = decode(framed(columns)[8:])
    assert list(found) == list(columns)
    for name, column in columns.items():
        assert found[name].dtype == column.dtype
        assert found[name].shape == column.shape
        if column.dtype.kind == "O":
            assert found[name].tolist() == column.tolist()
        else:
            assert found[name].tobytes() == column.tobytes()


@given(
    columns=st.dictionaries(st.text(max_size=5), numbers, min_size=1, max_size=2), data=st.data()
)
def test_damaged_frames_are_no_frames(columns, data):
    body = bytearray(framed(columns)[8:])
    del body[data.draw(st.integers(0, len(body) - 1)) :]
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(bytes(body))


# -- answers in parts --


def parts_of(program, *words, outputs=None):
    return program.run_in_parts(rows(*words), outputs, threading.Event())


def test_a_class_that_streams_gives_its_parts_one_by_one(start, capfd):
    program = start("mine:Streaming")
    parts = list(parts_of(program, "a", "b", outputs=["words"]))
    assert [part["words"].tolist() for part in parts] == [["a", "a"], ["b", "b"]]
    assert [list(part) for part in parts] == [["words"]] * 2
    assert "closed" in capfd.readouterr().err


def test_answers_in_parts_take_turns_with_others_and_are_closed_where_they_are(start, capfd):
    program = start("mine:Streaming")
    first, second = parts_of(program, *"abcd"), parts_of(program, *"wxyz")
    assert [next(one)["words"][0] for one in (first, second, first, second)] == list("awbx")
    assert program.run(rows("whole"))["words"].tolist() == ["whole"]
    first.close()
    until(lambda: "closed" in capfd.readouterr().err)
    assert [part["words"][0] for part in second] == list("yz")


def test_a_class_without_a_stream_gives_its_answer_as_one_part(start):
    (part,) = parts_of(start(), "a", "b")
    assert part["words"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("word", "error"), [("raise", ModelFailed), ("floats", ModelFailed), ("exit", Unavailable)]
)
def test_what_goes_wrong_within_an_answer_ends_it_alone(start, word, error):
    program = start("mine:Streaming")
    parts = parts_of(program, "a", word)
    assert next(parts)["words"].tolist() == ["a", "a"]
    with pytest.raises(error):
        next(parts)
    assert len(list(parts_of(program, "a", "b"))) == 2


def test_a_process_that_is_replaced_does_not_go_on_with_an_answer(start):
    program = start("mine:Streaming")
    parts = parts_of(program, "a", "b")
    next(parts)
    os.kill(program.pid, signal.SIGKILL)
    with pytest.raises(Unavailable):
        next(parts)


@pytest.mark.parametrize("odd", ["", "a\0b", "\ud800", "é\n", None])
@pytest.mark.parametrize("rows", [10, 255, 256, 1_000])
def test_texts_arrive_as_they_were_sent(odd, rows):
    """Many go in one, which a text with the mark between them, half a pair or None does not."""
    texts = np.array(["x", odd] * (rows // 2), object).reshape(-1, 2)
    sent = b"".join(encode({}, {"text": texts, "after": np.arange(3)}))
    columns = decode(sent[8:])[1]
    assert columns["text"].tolist() == texts.tolist()
    assert columns["after"].tolist() == [0, 1, 2]


def test_a_frame_that_announces_other_texts_is_refused():
    sent = b"".join(encode({}, {"text": np.array(["x"] * 300, object)}))[8:]
    with pytest.raises(ValueError, match="other texts"):
        decode(sent.replace(b'"shape": [300]', b'"shape": [299]'))
