"""Every sink and mode of batch jobs, when a command is given again, by two, or is killed anywhere.

The rules:

- A sink has one writer. Of two that begin at once, one ends; the other is refused (`Conflict`), or
  comes after it, and finds what it has done.
- Rows of a run that ended are there once. Of other runs: none with `error` and `replace`, all with
  `append`, those with other keys with `upsert`.
- After a kill at any line, the same command ends as if nothing had happened: in the same home, in
  another, or on another host, which waits until the claim is stale.
- Where PostgreSQL ends the sessions of a command at any line, it ends or says that the server is
  away; the same command again ends as if nothing had happened.
- A command that was refused is refused again until something has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.conformance.batch_places import PLACES, Files, Place
from tests.stores import free_ports
from tests.tiers import first_of
from tests.unit.batch.conftest import flights

from bascule.batch.delta import open_table
from bascule.batch.places import open_place

from .hosts import Host

ROWS, OTHER = 120, 10_000


class Bucket(Files):
    """A prefix in a bucket of S3."""

    needs = "s3_url"

    def read(self, name: str) -> pa.Table:
        filesystem, path = open_place(self.sink(name))
        return ds.dataset(path, format="parquet", filesystem=filesystem).to_table()

    def leftovers(self) -> list[str]:
        return []


class DeltaBucket(Bucket):
    can_upsert = True

    def sink(self, name: str) -> str:
        return f"delta+{self.root}/{name}"

    def read(self, name: str) -> pa.Table:
        table = open_table(f"{self.root}/{name}", name)
        assert table is not None
        return table.to_pyarrow_table()


SINKS = {**PLACES, "s3": Bucket, "delta+s3": DeltaBucket}
MODES = ("error", "append", "replace", "upsert")
CELLS = [
    (sink, mode)
    for sink, kind in SINKS.items()
    for mode in MODES
    if (mode != "upsert" or kind.can_upsert) and (mode != "append" or not kind.is_one_file)
]


def cells(short: list[tuple[str, str]]) -> Any:
    """All cells, of which `short` are of the first tier."""
    return pytest.mark.parametrize(
        ("sink", "mode"),
        [one if one in short else pytest.param(*one, marks=pytest.mark.slow) for one in CELLS],
    )


@pytest.fixture(scope="module")
def hosts(table_bundle: Path) -> Iterator[tuple[Host, Host]]:
    with (
        closing(Host(table_bundle)) as one,
        closing(Host(table_bundle, is_own_container=True)) as other,
    ):
        yield one, other


class Cell:
    """A place for one sink, and jobs that write to it."""

    def __init__(self, place: Place, folder: Path, mode: str) -> None:
        self.place, self.mode, self._folder = place, mode, folder
        self.homes = folder / "home", folder / "other home"
        for start in (0, OTHER):
            rows = flights(ROWS, start=start)
            pq.write_table(rows, folder / f"{start}.parquet", row_group_size=30)

    def job(self, start: int = 0, name: str = "scored") -> dict[str, Any]:
        key = {"key": "id"} if self.mode == "upsert" else {}
        return {
            "model": "table", "from": str(self._folder / f"{start}.parquet"), "chunk_rows": 30,
            "to": self.place.sink(name), "mode": self.mode, "workers": 1, "keep": ["id"],
            **self.place.options, **key,
        }  # fmt: skip

    def check(self, *starts: int, name: str = "scored") -> None:
        """The rows of these runs are there, each once, and no other."""
        rows = self.place.read(name)
        expected = [id_ for start in sorted(starts) for id_ in range(start, start + ROWS)]
        assert sorted(rows.column("id").to_pylist()) == expected
        assert len(set(rows.column("prediction_id").to_pylist())) == len(expected)
        assert self.place.leftovers() == []


@pytest.fixture
def cell(request: pytest.FixtureRequest, tmp_path: Path, sink: str, mode: str) -> Cell:
    kind = SINKS[sink]
    root = request.getfixturevalue(kind.needs) if kind.needs else tmp_path / "place"
    return Cell(kind(root), tmp_path, mode)


def ended(*results: dict[str, Any]) -> list[bool]:
    """Which are done; the others are refused because the sink has a writer, or other rows."""
    for one in results:
        assert "rows" in one or one["kind"] in ("Conflict", "Unavailable"), one
    return ["rows" in one for one in results]


@cells([("parquet", "replace")])
def test_the_same_command_again(hosts, cell):
    for home in (*cell.homes, *cell.homes):
        assert hosts[0].run(home, cell.job())["rows"] == ROWS
        cell.check(0)


@pytest.mark.parametrize(
    ("sink", "mode"),
    [
        ("delta", "replace"),
        *(
            pytest.param(sink, "replace", marks=pytest.mark.slow)
            for sink in SINKS
            if sink != "delta"
        ),
    ],
)  # fmt: skip
def test_a_command_whose_rows_another_has_replaced_replaces_them_again(hosts, cell):
    for start in (0, OTHER, 0, OTHER):
        for _again in range(2):
            assert hosts[0].run(cell.homes[0], cell.job(start))["rows"] == ROWS
            cell.check(start)


@cells([("sqlite", "upsert")])
def test_the_same_command_by_two_at_once_on_one_host(hosts, cell):
    for home in cell.homes:
        hosts[0].start(home, cell.job())
    assert any(ended(*hosts[0].wait()))
    cell.check(0)
    assert hosts[0].run(cell.homes[1], cell.job())["rows"] == ROWS
    cell.check(0)


@cells([("delta", "error")])
def test_the_same_command_by_two_at_once_on_two_hosts(hosts, cell):
    for host, home in zip(hosts, cell.homes, strict=True):
        host.start(home, cell.job())
    assert any(ended(*(host.wait()[0] for host in hosts)))
    cell.check(0)
    assert hosts[1].run(cell.homes[1], cell.job())["rows"] == ROWS
    cell.check(0)


@cells([("parquet", "replace"), ("postgresql", "error")])
@pytest.mark.parametrize("where", first_of(["two hosts", "one host"]))
def test_two_commands_at_once(hosts, cell, where):
    pair = (hosts[0], hosts[0]) if where == "one host" else hosts
    starts = (0, OTHER)
    for host, home, start in zip(pair, cell.homes, starts, strict=True):
        host.start(home, cell.job(start))
    results = hosts[0].wait() if where == "one host" else [host.wait()[0] for host in hosts]
    done = ended(*results)
    assert any(done), results
    if all(done) and cell.mode == "replace":  # one came after the other
        (start,) = {id_ // OTHER * OTHER for id_ in cell.place.read("scored")["id"].to_pylist()}
        cell.check(start)
    else:
        cell.check(*(start for start, is_done in zip(starts, done, strict=True) if is_done))
    for host, home, start in zip(pair, cell.homes, starts, strict=True):
        again = host.run(home, cell.job(start))
        assert again.get("rows") == ROWS or (cell.mode == "error" and again["kind"] == "Conflict")
        if cell.mode == "replace":
            cell.check(start)
    if cell.mode in ("append", "upsert"):
        cell.check(0, OTHER)


@pytest.mark.parametrize(
    ("sink", "mode", "kills"),
    [
        ("parquet", "error", 2), ("delta", "append", 1),
        *(pytest.param(*one, 12, marks=pytest.mark.slow) for one in CELLS),
    ],
)  # fmt: skip
def test_a_command_that_is_killed_at_any_line(hosts, cell, kills):
    """Over the rows of another run, where the mode takes them; then from the other home."""
    one, _ = hosts
    is_over_others = cell.mode != "error"
    others = (OTHER,) if cell.mode in ("append", "upsert") else ()
    lines = one.run(cell.homes[0], cell.job(name="undisturbed"), counts=True)["lines"]
    for turn in range(kills):
        name = f"scored{turn}"
        if is_over_others:
            before = one.run(cell.homes[0], cell.job(OTHER, name))
            assert before.get("rows") == ROWS, before
        kill_at = max(1, lines * (2 * turn + 1) // (2 * kills))
        one.run(cell.homes[0], cell.job(name=name), kill_at=kill_at)
        again = one.run(cell.homes[turn % 2], cell.job(name=name))
        assert again.get("rows") == ROWS, (kill_at, again)
        cell.check(0, *others, name=name)


@pytest.mark.parametrize(
    ("sink", "mode", "cuts"),
    [
        ("postgresql", mode, cuts) if cuts == 1 else
        pytest.param("postgresql", mode, cuts, marks=pytest.mark.slow)
        for mode, cuts in (("replace", 1), *((mode, 12) for mode in MODES))
    ],
)  # fmt: skip
def test_a_command_whose_sessions_postgresql_ends_at_any_line(hosts, cell, cuts):
    """It ends, or says that the server is away; the same command again ends, and rows are once."""
    one, _ = hosts
    others = (OTHER,) if cell.mode in ("append", "upsert") else ()
    lines = one.run(cell.homes[0], cell.job(name="undisturbed"), counts=True)["lines"]
    for turn in range(cuts):
        name = f"cut{turn}"
        if cell.mode != "error":
            assert one.run(cell.homes[0], cell.job(OTHER, name))["rows"] == ROWS
        cut_at = max(1, lines * (2 * turn + 1) // (2 * cuts))
        disturbed = one.run(cell.homes[0], cell.job(name=name), cut_at=cut_at)
        assert "rows" in disturbed or disturbed["kind"] == "Unavailable", (cut_at, disturbed)
        again = one.run(cell.homes[turn % 2], cell.job(name=name))
        assert again.get("rows") == ROWS, (cut_at, again)
        cell.check(0, *others, name=name)


@pytest.mark.parametrize(
    ("sink", "mode"),
    [
        ("postgresql", "replace"),
        *(pytest.param("postgresql", one, marks=pytest.mark.slow) for one in MODES),
    ],
)
def test_a_command_without_its_server_says_so_within_seconds(hosts, cell):
    (port,) = free_ports(1)
    root, cell.place.root = cell.place.root, f"postgresql://bascule:x@127.0.0.1:{port}/none"
    began = monotonic()
    assert hosts[0].run(cell.homes[0], cell.job())["kind"] == "Unavailable"
    assert monotonic() - began < 30
    cell.place.root = root
    assert hosts[0].run(cell.homes[0], cell.job())["rows"] == ROWS
    cell.check(0)


@cells([("parquet", "error")])
def test_a_command_that_is_killed_goes_on_on_another_host(hosts, cell):
    """Its claim is stale only after a while, which the other host waits for."""
    one, other = hosts
    lines = one.run(cell.homes[0], cell.job(name="undisturbed"), counts=True)["lines"]
    assert one.run(cell.homes[0], cell.job(), kill_at=lines // 2)["kind"] == "killed"
    assert other.run(cell.homes[1], cell.job())["rows"] == ROWS
    cell.check(0)


@cells([("sqlite", "error")])
@pytest.mark.parametrize("check", first_of(["rows >= 121", "mean(probabilities_True) <= 0.1"]))
def test_a_refused_command_is_refused_again(hosts, cell, check):
    refused = cell.job() | {"checks": [check]}
    for home in (*cell.homes, cell.homes[0]):
        assert hosts[0].run(home, refused)["kind"] == "Refused"
    one, other = (hosts[0].run(home, refused)["error"] for home in cell.homes)
    assert one == other
    assert hosts[0].run(cell.homes[0], cell.job())["rows"] == ROWS
    cell.check(0)
