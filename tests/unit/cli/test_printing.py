"""Texts of callers and servers reach a terminal without control characters."""

from __future__ import annotations

import ast
import json
import logging
import re
import unicodedata
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.receivers import answered_by
from tests.scenarios.commands import run

from bascule.cli import screen
from bascule.core import Invalid, printable
from bascule.serving.telemetry import logs

EVIL = {
    "clear screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "one byte CSI": "\x9b2J",
    "backspaces": "deny\x08\x08\x08\x08allow",
    "carriage return": "failed\rpassed",
    "right to left": "\u202etxt.exe\u202c",
    "isolates": "\u2067abc\u2069",
    "surrogate": "\ud83d alone",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "line separator": "a\u2028b",
}
KEPT = ["é ü 漢字 🎉", "a\tb", "two\nlines", "two\r\nlines", "\u200bzero width"]
ALL = "".join(EVIL.values())
each = pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)


def hidden(text):
    """What a terminal acts on, or cannot show, besides ends of lines."""
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    odd = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return [c for c in text if (unicodedata.category(c) in kinds or c in odd) and c not in "\n\t"]


@each
def test_a_text_is_shown_with_escapes(evil):
    assert hidden(printable(evil)) == []
    assert printable(evil) != evil


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_stay_as_they_are(text):
    assert printable(text) == text


SHOWN = {
    "result": screen.say,
    "sentences": screen.say_sentences,
    "note": screen.note,
    "message": lambda text: screen.print_error(Invalid(text), as_json=False),
    "hint": lambda text: screen.print_error(Invalid("no", hint=text), as_json=False),
    "error for programs": lambda text: screen.print_error(Invalid(text), as_json=True),
    "cell": lambda text: screen.print_table(["name"], [[text]]),
    "heading": lambda text: screen.print_table([text], [["a"]]),
    "no rows": lambda text: screen.print_table(["name"], [], empty=text),
}


def stage(text):
    with screen.stages(quiet=False) as tell:
        tell(text)
        tell.step(text, 1, 2)


SHOWN["stage"] = stage


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_whatever_shows_a_text_shows_it_with_escapes(show, capfd):
    show(f"a{ALL}b")
    out, err = capfd.readouterr()
    assert hidden(out + err) == []
    assert out + err


@each
def test_a_log_has_no_control_characters_and_no_forged_line(evil, capsys, monkeypatch):
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    logs.start_logging("text")
    try:
        logging.getLogger("bascule").warning("said %s", f"{evil}\n2026-01-01 00:00:00,000 INFO ok")
        try:
            raise ValueError(evil)
        except ValueError:
            logging.getLogger("bascule").exception("failed")
    finally:
        root.setLevel(level)
    said = capsys.readouterr().err
    assert hidden(said) == []
    assert re.search(r"^2026-01-01", said, re.MULTILINE) is None


@pytest.mark.parametrize("member", ["detail", "hint"])
def test_what_a_server_answers_is_shown_with_escapes(member, tmp_path):
    class Evil(BaseHTTPRequestHandler):
        def do_GET(self):
            said = {"type": "urn:bascule:error:NotFound", "detail": "no", member: f"a{ALL}b"}
            self.send_response(404)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_):
            pass

    with answered_by(Evil) as port:
        code, out, errors = run(tmp_path, "--server", f"http://127.0.0.1:{port}", "show", "gb")
    assert hidden(out + errors) == []
    assert (code, "error: " in errors) == (3, True)


def test_one_module_writes_to_the_terminal():
    """A command that writes by itself would show what it is sent as it is."""
    writers = {}
    for file in Path(screen.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {"print", "Console", "rich.print", "sys.stdout.write", "sys.stderr.write"}:
                writers.setdefault(file.name, set()).add(called)
    assert set(writers) == {"screen.py", "shipping.py"}  # which writes what it has made printable
