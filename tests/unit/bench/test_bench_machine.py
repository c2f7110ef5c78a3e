import io
import os

from bench import __main__ as bench
from bench.machine import machine, missing_parts, versions
from rich.console import Console


def test_only_what_is_not_installed_is_missing():
    assert missing_parts(["sh", "no-such-program"]) == ["no-such-program"]


def test_without_root_the_missing_part_and_the_line_that_installs_it_are_named(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bench, "missing_parts", lambda parts: list(parts))
    output = io.StringIO()

    assert not bench.parts_are_there(Console(file=output, width=200), {"nginx"})
    assert "the bench needs nginx" in output.getvalue()
    assert "sudo apt-get install nginx" in output.getvalue()


def test_versions_are_those_installed_and_what_is_not_says_so():
    found = versions(["numpy", "no-such-package"])

    assert found["numpy"][0].isdigit()
    assert found["no-such-package"] == "not installed"


def test_the_machine_is_described():
    assert int(machine()["cores"]) >= 1
    assert machine()["processor"]
