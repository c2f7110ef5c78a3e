"""What `bascule top` shows of a load."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from bascule.cli.top import picture, show_load
from bascule.core.errors import Invalid
from bascule.serving.telemetry.load import Look, VersionLook, WorkerLook, load_between


def look(at_s, requests, versions=1, alive=True):
    made = [VersionLook("", "", True, 0, 0, 0, (0, 0), 0)]
    for number in range(versions):
        counted = requests * (number + 1)
        made.append(
            VersionLook(f"m{number}", "1", True, counted, counted // 2, counted, (counted, 0), 3)
        )
    workers = (WorkerLook(0, 4_242, alive, 1, at_s / 2, 50_000_000, 2_000_000),)
    return Look("1.2.3", at_s, (0.001,), tuple(made), workers)


def drawn(what, width=110):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(what)
    return console.file.getvalue()


def test_versions_and_workers_are_shown_with_their_figures():
    before, after = look(0.0, 0), look(2.0, 1_000, alive=False)
    text = drawn(picture(after, load_between(before, after)))
    assert "bascule 1.2.3  0 of 1 workers  500 requests/s  500 rows/s  250.0 errors/s" in text
    (version,) = [line.split() for line in text.splitlines() if line.strip().startswith("m0/1")]
    assert version == ["m0/1", "500.0", "250.0", "500.0", "0.5", "ms", "0.99", "ms", "3", "1,000"]
    (worker,) = [line.split() for line in text.splitlines() if "4242" in line]
    assert worker == ["0", "4242", "AWAY", "50", "%", "50", "MB", "2.0", "MB", "1"]


def test_where_there_is_no_room_the_busiest_versions_are_shown():
    before, after = look(0.0, 0, versions=30), look(1.0, 10, versions=30)
    text = drawn(picture(after, load_between(before, after), most_versions=2))
    shown = [line.split()[0] for line in text.splitlines() if line.strip().startswith("m")]
    assert shown == ["m29/1", "m28/1"]
    assert "and 28 versions that are less busy" in text


@pytest.mark.parametrize(("requests", "shown"), [(0, False), (7, True)])
def test_a_version_that_was_swapped_out_stays_with_what_it_answered(requests, shown):
    after = look(2.0, 1_000)
    gone = VersionLook("m0", "0", False, requests, 0, requests, (requests, 0), 0)
    after = replace(after, versions=(*after.versions, gone))
    text = drawn(picture(after, load_between(after, after)))
    assert ("m0/0 (unloaded)" in text) == shown


def test_a_live_view_without_a_terminal_is_refused_before_anything_is_asked():
    def ask():
        raise AssertionError("asked")

    with pytest.raises(Invalid, match="needs a terminal"):
        show_load(ask, every_s=1.0, once=False, as_json=False)
