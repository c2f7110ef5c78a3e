"""What people see: lines, tables, progress. Data goes to standard output, the rest to error."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from io import StringIO
from typing import Any, TextIO

from bascule.core import (
    BasculeError,
    BasculeWarning,
    Invalid,
    masked_text,
    next_step,
    printable,
    write_without_waiting,
)
from bascule.documents import Block, Line, Table, console, lettered, table_for


def print_json(value: Any) -> None:
    """One JSON document on standard output, at once: a program may be waiting for it."""
    say(json.dumps(value, indent=2, default=str))


def print_either(value: Any, shown: str | Table, *, as_json: bool) -> None:
    """The result of a command: `value` for programs, `shown` for people."""
    if as_json:
        print_json(value)
    elif isinstance(shown, str):
        say(shown)
    else:
        print_blocks(shown)


def confirm(question: str) -> None:
    """Ask a person at a terminal, and end the command without a yes."""
    import typer

    if not sys.stdin.isatty():
        raise Invalid("there is no terminal to confirm on", hint="add --yes")
    typer.confirm(question, abort=True)


def say(line: str) -> None:
    """Lines of result on standard output."""
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


class Output(StringIO):
    """Standard output for pieces of text. A program gets them as they are."""

    def write(self, text: str) -> int:
        return sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def note(line: str) -> None:
    """One line beside the result, on standard error. That it cannot be written ends nothing."""
    line = _fitting(printable(masked_text(line)), sys.stderr) + "\n"
    if write_without_waiting(line.encode(errors="backslashreplace")):
        return
    with suppress(OSError):
        sys.stderr.write(line)
        sys.stderr.flush()


def say_sentences(text: str) -> None:
    """Lines of result for people: a terminal breaks the long ones between words."""
    say("\n".join(_fitting(line, sys.stdout) for line in text.split("\n")))


def _fitting(line: str, stream: TextIO) -> str:
    """The line, broken between words where `stream` is a terminal; a pipe gets it whole."""
    width = shutil.get_terminal_size().columns
    if len(line) <= width or not stream.isatty():
        return line
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def show_warnings() -> None:
    """Show warnings of ours as notes, and those of libraries as Python shows them."""
    import warnings

    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, BasculeWarning):
            note(f"warning: {message}")
        else:
            usual(message, category, *rest, **more)

    warnings.showwarning = show


def error_json(error: BasculeError) -> dict[str, str]:
    """An error as those who asked for JSON read it."""
    return {
        "error": masked_text(error.message),
        "hint": next_step(error),
        "kind": type(error).__name__,
    }


def print_error(error: BasculeError, *, as_json: bool) -> None:
    """The error in one sentence, and the next step."""
    if as_json:
        print_json(error_json(error))
        return
    from rich.text import Text

    screen = console(stderr=True, soft_wrap=not sys.stderr.isatty())
    screen.print(Text("error: ", "bold red") + Text(masked_text(error.message), "default"))
    screen.print(Text("hint:  ", "bold cyan") + Text(next_step(error), "default"))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Line]],
    *,
    right: Sequence[str] = (),
    empty: str = "",
) -> Table:
    """A table that fits the terminal; headings in `right` are of numbers.

    Without rows the sentence `empty` is shown in its place, if there is one.
    """
    return Table(tuple(headings), tuple(map(tuple, rows)), tuple(right), empty)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Line]], **options: Any) -> None:
    """See `table`."""
    print_blocks(table(headings, rows, **options))


def print_blocks(*blocks: Block) -> None:
    """Blocks of a document one below the other; tables fit the terminal."""
    for block in blocks:
        if isinstance(block, Table) and (block.rows or not block.empty):
            console(markup=False, width=_table_width()).print(table_for(block))
        else:
            say_sentences(lettered([block]))


def _table_width() -> int | None:
    """COLUMNS where it is set, else the width of the terminal, or 160 in a pipe."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    return None if sys.stdout.isatty() else 160


class Stages:
    """Prints stages of long work: call it with what is done, `step` with what is under way."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._console = console(stderr=True, soft_wrap=True)
        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self.bar.add_task("working", total=None)
        self._now = ""

    def __call__(self, line: str) -> None:
        """A stage is done."""
        from rich.text import Text

        mark = ("✓ ", "green") if self._console.is_terminal else ""
        self._console.print(Text.assemble(mark, line))  # at once: the bar is drawn in between
        self._now = ""
        self.bar.reset(self._task, description="working", total=None)

    def step(self, what: str, done: int, of: int) -> None:
        """`done` parts `of` so many are done of what is under way, which is named once in a log."""
        if what != self._now and not self._console.is_terminal:
            self._console.print(what, markup=False)
        self._now = what
        self.bar.update(self._task, description=what, completed=done, total=of)


@contextmanager
def stages(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Tell of long work as it happens: each stage that is done, and a bar for the next."""
    if quiet:
        yield lambda _: None
        return
    shown = Stages()
    with shown.bar:
        yield shown


def when(moment: datetime) -> str:
    """A time for people: local, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(digest: str) -> str:
    """Enough of a digest to recognise it."""
    return digest.removeprefix("sha256:")[:12]


def url_host(host: str) -> str:
    """The host of an address at which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
