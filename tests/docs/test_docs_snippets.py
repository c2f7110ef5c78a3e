"""Every snippet of the documentation runs, in the order of its page, and says what the page says.

What a page may say to this test, in a comment on the line above a block:

    <!-- server -->             the command serves; it runs until the next server or the page's end
    <!-- bucket -->             the command copies a folder into a bucket; an emulator stands for it
    <!-- exit 1 -->             the command must end with this code; 0 where nothing is said
    <!-- file: bascule.toml --> the block is a file of the reader's
    <!-- figures vary -->       of an output: numbers, times and digests are not compared
    <!-- not run: why -->       only for what installs, or needs a system that a test has not

What installs has to be marked so: a block with a package manager and what makes it install, on one
line and whatever is between them, is refused before any block of its page is run.

Ports 8080, 8081 and 8082 stand for three free ones. `...` in an output stands for anything.

Plain `bascule` commands run in this process, by the function that the `bascule` script calls: each
process of its own would spend most of its time on imports. Servers and all else run as written.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.feature_repositories import feast_imported
from tests.stores import BUCKET, upload_to_google

from bascule import cli
from bascule.cli.commands import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = {"python", "bash", "console"}
SHOWN = {"text", "json"}
FILES = {"toml", "ini", "yaml", "markdown", "{eval-rst}"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\s*$")
_INSTALLS = re.compile(
    r"(?:^|[\s;&|$])(?:\S*/)?"
    r"(?:(?:pip[\d.]*|pipx|uv|poetry|conda|mamba|apt|apt-get|apk|dnf|yum|brew|snap|npm|yarn|cargo|go)"
    r"(?:[ \t].*)?[ \t](?:install|add|sync|ci|i|get|upgrade|download|wheel)"
    r"|make(?:[ \t].*)?[ \t]setup)(?![\w-])",
    re.MULTILINE,
)
_MARK = re.compile(r"<!-- (.+?) -->")
_PATIENCE_S = 30.0


@dataclass
class Block:
    language: str
    text: str
    line: int
    marks: list[str] = field(default_factory=list)
    output: Block | None = None

    def mark(self, name: str) -> str | None:
        for mark in self.marks:
            if mark == name or mark.startswith((name + " ", name + ": ")):
                return mark.removeprefix(name).lstrip(": ")
        return None

    @property
    def is_run(self) -> bool:
        return self.language in RUNNABLE and self.mark("not run") is None

    @property
    def installs(self) -> bool:
        """Whether a line of it installs something, in whatever form a command has its words."""
        words = re.sub(r"[\"',()\[\]]+", " ", self.text.replace("\\\n", " "))
        return _INSTALLS.search(words) is not None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page; an output belongs to the runnable block before it."""
    found: list[Block] = []
    marks: list[str] = []
    current: Block | None = None
    last: Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if current is not None:
            if fence and not fence["language"]:
                found.append(current)
                if current.language in RUNNABLE:
                    last = current
                elif current.language in SHOWN and last is not None:
                    last.output, last = current, None
                current = None
            else:
                current.text += line + "\n"
        elif fence:
            current = Block(fence["language"], "", number, marks)
            marks = []
        elif line.startswith("#"):
            last, marks = None, []
        elif line.strip():
            marks = _MARK.findall(line) if line.startswith("<!--") else []
    assert current is None, "a block is never closed"
    return found


class Reader:
    """Somebody who follows one page from its top, in an empty folder."""

    def __init__(self, page: Path, folder: Path, storage: str = "") -> None:
        self.page = page
        self.folder = folder
        self.storage = storage
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.server: subprocess.Popen[bytes] | None = None
        self.ports = dict(zip(("8080", "8081", "8082"), _free_ports(), strict=True))

    def follow(self, found: list[Block]) -> None:
        for block in found:
            assert not (block.is_run and block.installs), (
                f"{self._place(block)} installs: mark it <!-- not run: it installs -->"
            )
        try:
            for block in found:
                self._do(block)
        finally:
            self.stop()

    def _do(self, block: Block) -> None:
        file = block.mark("file")
        if file is not None:
            (self.folder / file).write_text(self._with_ports(block.text))
        if not block.is_run:
            return
        if block.language == "python":
            printed = self._python(block)
        elif block.language == "console":
            printed = self._console(block)
        elif block.mark("server") is not None:
            printed = self._serve(block)
        elif block.mark("bucket") is not None:
            printed = self._copy(block)
        else:
            printed = self._bash(block.text, block)
        if block.output is not None:
            self._compare(block.output, printed)

    def _python(self, block: Block) -> str:
        code = "\n" * block.line + self._with_ports(block.text)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(self.page), "exec"), self.names)
        return printed.getvalue()

    def _bash(self, command: str, block: Block) -> str:
        plain = _plain_commands(self._with_ports(command))
        code, out, errors = self._own(plain) if plain else self._shell(command)
        wanted = int(block.mark("exit") or 0)
        assert code == wanted, (
            f"{self._place(block)}: {command!r} ended with {code}, not {wanted}:\n{out}\n{errors}"
        )
        # Results go to one stream and errors to the other; progress is not worth a page's space.
        return out or errors

    def _own(self, commands: list[list[str]]) -> tuple[int, str, str]:
        out, errors = io.StringIO(), io.StringIO()
        for words in commands:
            with (
                pytest.MonkeyPatch.context() as patch,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(errors),
            ):
                patch.setattr(sys, "argv", words)
                try:
                    cli.main()
                except SystemExit as end:
                    if end.code:
                        return int(end.code), out.getvalue(), errors.getvalue()
        return 0, out.getvalue(), errors.getvalue()

    def _shell(self, command: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._with_ports(command)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def _console(self, block: Block) -> str:
        printed = ""
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            printed = self._bash(command, block)
            self._compare(Block("text", output, block.line, block.marks), printed)
        return printed

    def _copy(self, block: Block) -> str:
        """What `gsutil cp -r FOLDER gs://BUCKET/PREFIX` does where nothing is yet."""
        *command, folder, url = block.text.split()
        assert command == ["gsutil", "cp", "-r"], self._place(block)
        bucket, _, prefix = url.removeprefix("gs://").partition("/")
        assert bucket == BUCKET, self._place(block)
        for file in (self.folder / folder).rglob("*"):
            if file.is_file():
                name = file.relative_to(self.folder / folder).as_posix()
                upload_to_google(self.storage, f"{prefix}/{name}", file.read_bytes())
        return ""

    def _serve(self, block: Block) -> str:
        self.stop()
        log = self.folder.parent / "server.log"
        with log.open("w") as errors:
            self.server = subprocess.Popen(
                ["bash", "-c", "exec " + self._with_ports(block.text).strip()],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.server.stdout is not None
        printed = ""
        until = time.monotonic() + _PATIENCE_S
        while not re.search(r"console at .*\n", printed):
            ready, _, _ = select.select([self.server.stdout], [], [], until - time.monotonic())
            said = os.read(self.server.stdout.fileno(), 4096) if ready else b""
            if not said:
                raise AssertionError(f"{self._place(block)}: no server: {log.read_text()}")
            printed += said.decode()
        return printed

    def stop(self) -> None:
        """Ctrl-C; a server that had nothing to complain of ends with 0."""
        if self.server is None:
            return
        server, self.server = self.server, None
        server.send_signal(signal.SIGINT)
        try:
            assert server.wait(_PATIENCE_S) == 0, f"{self.page.name}: the server did not end well"
        finally:
            server.kill()
            if server.stdout:
                server.stdout.close()

    def _compare(self, output: Block, printed: str) -> None:
        for standing_for, port in self.ports.items():
            printed = re.sub(rf"\b{port}\b", standing_for, printed)
        where = self._place(output)
        if output.language == "json":
            problem = _json_difference(json.loads(output.text), json.loads(printed), "$")
            assert problem is None, f"{where}: {problem}\nprinted was: {printed}"
            return
        varies = output.mark("figures vary") is not None
        wanted, found = _plain(output.text, varies=varies), _plain(printed, varies=varies)
        pattern = ".*".join(re.escape(part) for part in wanted.split("..."))
        assert re.fullmatch(pattern, found, re.DOTALL), (
            f"{where}: the page says\n{wanted}\nand printed was\n{found}"
        )

    def _with_ports(self, text: str) -> str:
        for standing_for, port in self.ports.items():
            text = re.sub(rf"\b{standing_for}\b", port, text)
        return text

    def _place(self, block: Block) -> str:
        return f"{self.page.relative_to(ROOT)}:{block.line}"


def _plain_commands(text: str) -> list[list[str]]:
    """The words of each line, if every line is a `bascule` command and nothing for a shell."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    for_shell = re.search(r"[|&;<>$`*]", re.sub(r"\"[^\"]*\"|'[^']*'", "", text))
    if for_shell or not all(line.startswith("bascule ") for line in lines):
        return []
    return [shlex.split(line) for line in lines]


def _free_ports() -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


def _plain(text: str, *, varies: bool) -> str:
    """Without what only decorates: runs of spaces, rules of tables, empty lines at the ends."""
    lines = [" ".join(re.sub("─+", "─", line).split()) for line in text.splitlines()]
    plain = "\n".join(line for line in lines if line)
    if varies:
        plain = re.sub(r"(?<![.\w])[0-9a-f]{7,64}\b(?!\.)", "#", plain)
        plain = re.sub(r"\d[\d.,:]*(?:e[-+]?\d+)?", "#", plain)
    return plain


def _json_difference(wanted: Any, found: Any, where: str) -> str | None:
    """What differs, if anything does: "..." is anything, and a key "..." allows more keys."""
    if wanted == "...":
        return None
    if isinstance(wanted, dict) and isinstance(found, dict):
        more = wanted.keys() - {"..."} - found.keys()
        strange = set() if "..." in wanted else found.keys() - wanted.keys()
        if more or strange:
            return f"{where}: the page has {sorted(more)} more, and lacks {sorted(strange)}"
        pairs: Iterator[tuple[str, Any, Any]] = (
            (f"{where}.{key}", value, found[key]) for key, value in wanted.items() if key != "..."
        )
    elif isinstance(wanted, list) and isinstance(found, list):
        open_end = wanted[-1:] == ["..."]
        if open_end:
            wanted, found = wanted[:-1], found[: len(wanted) - 1]
        if len(wanted) != len(found):
            return f"{where}: {len(wanted)} on the page, {len(found)} printed"
        pairs = ((f"{where}[{i}]", *both) for i, both in enumerate(zip(wanted, found, strict=True)))
    elif isinstance(wanted, float) and isinstance(found, float):
        # Solvers that iterate end 1e-4 apart on different processors.
        return None if abs(wanted - found) < 5e-4 else f"{where}: {wanted} is not {found}"
    elif isinstance(wanted, str) and isinstance(found, str):
        same = re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), found, re.DOTALL)
        return None if same else f"{where}: {wanted!r} is not {found!r}"
    else:
        return None if wanted == found else f"{where}: {wanted!r} is not {found!r}"
    return next(filter(None, (_json_difference(w, f, at) for at, w, f in pairs)), None)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


LONG = {
    "docs/explanation/which-program-runs.md",
    "docs/how-to/ask-for-confidence.md",
    "docs/how-to/back-up.md",
    "docs/how-to/call-a-server.md",
    "docs/how-to/check-fairness.md",
    "docs/how-to/compose-models.md",
    "docs/how-to/configuration-as-code.md",
    "docs/how-to/connect-a-client.md",
    "docs/how-to/deploy-a-version.md",
    "docs/how-to/explain-answers.md",
    "docs/how-to/export-a-model.md",
    "docs/how-to/follow-lineage.md",
    "docs/how-to/guard-a-model.md",
    "docs/how-to/let-callers-in.md",
    "docs/how-to/measure-performance.md",
    "docs/how-to/pack-a-model.md",
    "docs/how-to/pack-your-own-code.md",
    "docs/how-to/publish-to-devices.md",
    "docs/how-to/review-outliers.md",
    "docs/how-to/roll-out-a-version.md",
    "docs/how-to/roll-out-to-devices.md",
    "docs/how-to/run-in-production.md",
    "docs/how-to/run-on-a-cloud.md",
    "docs/how-to/schedule-a-run.md",
    "docs/how-to/score-a-table.md",
    "docs/how-to/serve-several.md",
    "docs/how-to/ship-a-model.md",
    "docs/how-to/see-usage.md",
    "docs/how-to/sign-bundles.md",
    "docs/how-to/train-a-model.md",
    "docs/how-to/use-the-console.md",
    "docs/how-to/use-a-feature-store.md",
    "docs/how-to/watch-for-drift.md",
    "docs/how-to/work-in-a-notebook.md",
    "docs/how-to/write-compliance-documents.md",
    "docs/how-to/write-gates.md",
    "docs/reference/control-api.md",
    "docs/tutorial.md",
}
"""Pages that take more than about a second; the second tier runs them, and README in the first."""

FEAST = "docs/how-to/use-a-feature-store.md"
"""Feast warns of itself, and is in an environment of its own."""

_IGNORED = pytest.mark.filterwarnings("ignore")
RUN = [
    pytest.param(
        page,
        id=_name(page),
        marks=[pytest.mark.slow] * (_name(page) in LONG) + [_IGNORED] * (_name(page) == FEAST),
    )
    for page in PAGES
    if any(block.is_run for block in blocks(page.read_text()))
]


_command = functools.cache(typer.main.get_command)  # making it takes as long as parsing a page


def _parse(words: list[str]) -> None:
    """Fails unless the command line has such a command with such options."""
    command: Any = _command(app)
    context = command.context_class(command)
    _, *rest = words
    while hasattr(command, "commands"):
        _, command, rest = command.resolve_command(context, rest)
        context = command.context_class(command, context)
    command.make_parser(context).parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_snippets_of_a_page_can_be_read(page: Path) -> None:
    """The short form of running them: Python compiles, commands and their options exist."""
    for block in blocks(page.read_text()):
        if block.language == "python":
            compile(block.text, str(page), "exec")
        for command in _plain_commands(block.text) if block.language == "bash" else ():
            _parse(command)


@pytest.mark.parametrize(
    "words", ["pack model.skops --nmae m", "pakc model.skops", "keys create --nmae m"]
)
def test_a_command_that_does_not_exist_is_noticed(words: str) -> None:
    with pytest.raises(Exception, match="No such"):
        _parse(["bascule", *words.split()])


@pytest.fixture
def feast(tmp_path: Path) -> Iterator[None]:
    with feast_imported(tmp_path):
        yield


@pytest.mark.parametrize("page", RUN)
def test_the_snippets_of_a_page_run_and_say_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    found = blocks(page.read_text())
    storage = ""
    if any(block.mark("bucket") is not None for block in found):
        storage = request.getfixturevalue("gcs_server")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage)
    reader = Reader(page, folder, storage)
    environment = {
        "COLUMNS": "160",
        "BASCULE_HOME": str(folder / ".bascule"),
        "BASCULE_SERVING__PORT": reader.ports["8080"],
        "BASCULE_SERVING__CONTROL_PORT": reader.ports["8082"],
        "HOME": str(tmp_path),
        "LOGNAME": "ada",
        "USER": "ada",
        "TZ": "UTC",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if _name(page) == FEAST:
        request.getfixturevalue("feast")
    monkeypatch.delenv("BASCULE_MONITORING__LEDGER", raising=False)  # as a reader has it
    monkeypatch.syspath_prepend(folder)  # Python imports what lies beside a script

    reader.follow(found)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_block_is_of_a_kind_that_is_known(page: Path) -> None:
    """So that none escapes by a misspelt language."""
    for block in blocks(page.read_text()):
        assert block.language in RUNNABLE | SHOWN | FILES, f"{_name(page)}:{block.line}"


_NOT_FOR_A_TEST = ("flwr", "make", "pip", "python3", "sudo", "systemctl", "cd", "journalctl")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_what_is_not_run_could_not_be(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page.read_text()):
        if block.mark("not run") is None:
            continue
        for line in block.text.splitlines():
            first, *rest = line.partition("#")[0].split()
            assert first in _NOT_FOR_A_TEST, f"{_name(page)}:{block.line}: {line}"
            assert first != "make" or rest[0] in targets, f"there is no {line}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_what_installs_is_not_run(page: Path) -> None:
    for block in blocks(page.read_text()):
        assert not (block.is_run and block.installs), f"{_name(page)}:{block.line}"


@pytest.mark.parametrize(
    "text",
    [
        "pip install bascule",
        "cd /tmp && .venv/bin/pip3.11 --quiet install \\\n  bascule",
        "python -m pip install 'bascule[torch]'",
        "uv add bascule",
        "sudo apt-get -y install nginx",
        "npm i",
        "make -s setup",
        "$ pip install bascule\nSuccessfully installed",
        'subprocess.run([sys.executable, "-m", "pip", "install", "x"])',
        'os.system("pip install x")',
    ],
)
def test_a_command_that_installs_is_known(text: str) -> None:
    assert Block("bash", text, 1).installs


@pytest.mark.parametrize(
    "text",
    [
        "bascule pack pip.skops",
        "go = 1\nadd(go)",
        "ls pipeline/install",
        "pip --version",
        "make docs",
    ],
)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert not Block("bash", text, 1).installs


def test_a_page_that_would_install_is_stopped_before_its_first_block(tmp_path: Path) -> None:
    """By a block that does nothing even where it is run."""
    page = "```bash\ntouch ran\n```\n\n```bash\ntrue || pip install bascule\n```\n"
    with pytest.raises(AssertionError, match=r"README\.md:5 installs: mark it <!-- not run"):
        Reader(ROOT / "README.md", tmp_path).follow(blocks(page))
    assert list(tmp_path.iterdir()) == []
    Reader(ROOT / "README.md", tmp_path).follow(
        blocks(page.replace("\n\n", "\n\n<!-- not run: it installs -->\n"))
    )
    assert [made.name for made in tmp_path.iterdir()] == ["ran"]


def test_an_output_that_the_page_does_not_promise_is_noticed() -> None:
    reader = Reader(ROOT / "README.md", ROOT)

    reader._compare(Block("text", "a ... c\n", 1), "a b c\n")
    with pytest.raises(AssertionError, match="the page says"):
        reader._compare(Block("text", "a ... c\n", 1), "a b d\n")
    assert _json_difference({"a": [1, "..."]}, {"a": [1, 2, 3]}, "$") is None
    assert _json_difference({"a": 1}, {"a": 1, "b": 2}, "$") is not None
    assert _json_difference({"a": 0.5}, {"a": 0.6}, "$") is not None
