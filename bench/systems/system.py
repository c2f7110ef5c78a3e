"""What every measured system has in common: a process group that answers over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from bench import binary, load
from bench.load import Load
from bench.pinning import on_core
from bench.requests import JSON, Request
from bench.subject import ImportedModel

_STOP_WITHIN_S = 10.0
_POLL_S = 0.004
TOLERANCE = 1e-5


class Wrong(Exception):
    """A system did not start, or its answers are not the model's: no figure would mean anything."""


class System(ABC):
    """One server around the model, alive inside a `with` block.

    Attributes:
        name: What tables and `--only` call it.
        about: One line on how it is made.
        predicts: Whether it runs the model at all; the floor of HTTP does not.
        tools: The programs that it and its load are made with.
        codings: How it takes numbers: "json", and "binary" where it has the binary tensors of the
            Open Inference Protocol; or "grpc".
        runs: What answers inside a peer, "scikit-learn" or "onnx"; empty for what is no peer.
        distributions: The installed packages whose versions belong beside its figures.
        process: The root of its process tree.
        started_at: When the process was asked for, on the monotonic clock.
    """

    name: str
    about: str
    predicts: bool = True
    tools: frozenset[str] = frozenset({"wrk"})
    codings: tuple[str, ...] = ("json",)
    runs: str = ""
    distributions: tuple[str, ...] = ()

    def __init__(self, subject: ImportedModel, folder: Path, core: int) -> None:
        self.subject = subject
        self.folder = folder
        self.port, self.other_port = free_ports(2)
        self._core = core

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs the server in the foreground on `self.port`."""

    path = "/predict"
    ready_within_s = 60.0

    def offers(self, coding: str) -> bool:
        """Whether the running server takes numbers in this coding."""
        return coding in self.codings

    def request(self, rows: NDArray[np.float64], coding: str = "json") -> Request:
        """What asks for these rows."""
        if coding == "binary":
            return binary.request(self.subject.input_name, self.subject.datatype, rows)
        return Request(self.body(rows), JSON)

    def body(self, rows: NDArray[np.float64]) -> bytes:
        """The request for these rows; an Open Inference Protocol v2 one unless overridden."""
        tensor = {
            "name": self.subject.input_name,
            "datatype": self.subject.datatype,
            "shape": list(rows.shape),
            "data": rows.ravel().tolist(),
        }
        return msgspec.json.encode({"inputs": [tensor]})

    def probabilities(self, answer: Any) -> NDArray[np.float64]:
        """The probabilities in a decoded answer, one row a request row."""
        for output in answer["outputs"]:
            if output["name"] == "probabilities":
                return np.array(output["data"], dtype=np.float64).reshape(output["shape"])
        raise Wrong(f"{self.name}: the answer has no output `probabilities`")

    def __enter__(self) -> Self:
        command = on_core(self._core, self.command())
        self._log = (self.folder / f"{self.name.replace(' ', '-')}.log").open("wb")
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **self.environment()},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        descendants = _descendants(self.process.pid)
        try:
            _signal_group(self.process, signal.SIGTERM)
            self.process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _signal_group(self.process, signal.SIGKILL)
            for process in descendants:  # some start sessions of their own
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
            self._log.close()

    def environment(self) -> Mapping[str, str]:
        """Variables that its users are told to set."""
        return {}

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def first_answer_s(self) -> float:
        """Wait for the first 200 to a real request; seconds since the process was asked for."""
        request = self.request(self.subject.rows[:1])
        while (waited := time.monotonic() - self.started_at) < self.ready_within_s:
            if self.process.poll() is not None:
                raise Wrong(
                    f"{self.name} ended with {self.process.returncode}: {self._last_words()}"
                )
            try:
                if self.ask(request)[0] == 200:
                    return time.monotonic() - self.started_at
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(_POLL_S)
        raise Wrong(f"{self.name} gave no answer within {waited:.0f} s: {self._last_words()}")

    def ask(self, request: Request) -> tuple[int, bytes, Mapping[str, str]]:
        """One request on a connection of its own: status, body, headers in small letters."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", self.path, request.body, dict(request.headers))
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, response.read(), headers
        finally:
            connection.close()

    def verified(
        self, rows: NDArray[np.float64], truth: NDArray[np.float64], coding: str = "json"
    ) -> bytes:
        """Ask for `rows` and compare with `truth`; what every later answer's body must contain.

        Raises:
            Wrong: The status is not 200, or a probability is off by more than `TOLERANCE`.
        """
        status, raw, headers = self.ask(self.request(rows, coding))
        if status != 200:
            raise Wrong(f"{self.name} answered {status}: {raw[:300]!r}")
        if not self.predicts:
            return raw
        try:
            if coding == "binary":
                given, wanted = binary.read(raw, headers, "probabilities")
            else:
                given, wanted = self.probabilities(msgspec.json.decode(raw)), longest_numbers(raw)
        except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
            raise Wrong(f"{self.name} answered {raw[:300]!r}: {error}") from error
        self.compare(given, truth)
        return wanted

    def compare(self, given: NDArray[np.float64], truth: NDArray[np.float64]) -> None:
        """Raise `Wrong` where probabilities are not the model's."""
        if given.shape != truth.shape:
            raise Wrong(f"{self.name} answered shape {given.shape} instead of {truth.shape}")
        if not (off := float(np.abs(given - truth).max())) <= TOLERANCE:
            raise Wrong(f"{self.name} is off by {off:.2g}, more than {TOLERANCE:g}")

    def load(self, request: Request, expected: bytes, seconds: float, core: int) -> Load:
        """Ask over and over from another core; `expected` is what `verified` returned."""
        return load.run(self.url(), request, expected, seconds, folder=self.folder, core=core)

    def _last_words(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace").strip()[-600:] or "it said nothing"


_NUMBERS = re.compile(rb"\[([-+0-9.eE,\s]+)\]")
ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONWARNINGS": "ignore",
    "BASCULE_MONITORING__LEDGER": "off",  # what it costs is measured apart: see `against`
}


def longest_numbers(raw: bytes) -> bytes:
    """The longest list of numbers in a JSON text, without its brackets.

    The probabilities, that is. The rest of an answer may hold an id, which is never the same.

    Raises:
        Wrong: There is no list of numbers in it.
    """
    found = max(_NUMBERS.findall(raw), key=len, default=b"")
    if not found:
        raise Wrong(f"no numbers in the answer {raw[:300]!r}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # gone already, with all that it started
        os.killpg(process.pid, number)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
