"""Places of each kind for batch jobs: how tests fill one, name it, and read what is there.

Each reads and writes with the store's own library, as a user who knows nothing of Bascule does.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.json as pajson
import pyarrow.parquet as pq


class Place:
    """One kind of place. `root` is a folder, or the URL of a server."""

    scheme: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    can_upsert: ClassVar[bool] = True
    is_one_file: ClassVar[bool] = False
    has_schema: ClassVar[bool] = True
    """Whether a table without rows has columns."""
    has_order: ClassVar[bool] = True
    """Whether rows are read in the order in which they were written."""

    def __init__(self, root: Any) -> None:
        self.root = root

    @property
    def options(self) -> dict[str, Any]:
        """What a job that writes here says beside the place."""
        return {}

    def put(self, name: str, rows: pa.Table) -> None:
        """Make `name` a table of these rows alone."""
        raise NotImplementedError

    def source(self, name: str) -> str:
        return self.sink(name)

    def sink(self, name: str) -> str:
        raise NotImplementedError

    def read(self, name: str) -> pa.Table:
        raise NotImplementedError

    def quarantine(self, name: str, run: str) -> pa.Table:
        return self.read(f"{name}_quarantine")

    def exists(self, name: str) -> bool:
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """What is there beside tables, quarantines and records of runs; nothing after a run."""
        raise NotImplementedError

    def files(self, name: str, run: str) -> list[str]:
        """The names of the files of `name`, which the run has made, where they can be foretold."""
        return []


# -- files --


class Files(Place):
    """A folder of Parquet files."""

    suffix: ClassVar[str] = "parquet"
    can_upsert = False

    @property
    def options(self) -> dict[str, Any]:
        return {"format": self.suffix}

    def write_file(self, rows: pa.Table, path: Path) -> None:
        pq.write_table(rows, path, row_group_size=100)

    def read_file(self, path: Path) -> pa.Table:
        return pq.read_table(path)

    def put(self, name: str, rows: pa.Table) -> None:
        folder = Path(self.root, name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for start in range(0, max(rows.num_rows, 1), 250):
            self.write_file(rows.slice(start, 250), folder / f"{start:06d}.{self.suffix}")

    def sink(self, name: str) -> str:
        return f"{self.root}/{name}/"

    def read(self, name: str) -> pa.Table:
        found = [self.read_file(one) for one in sorted(Path(self.root, name).glob("part-*"))]
        return pa.concat_tables([one for one in found if one.num_rows] or found[:1])

    def quarantine(self, name: str, run: str) -> pa.Table:
        folder = Path(self.root, name, "_bascule", run)
        return pa.concat_tables(map(pq.read_table, sorted(folder.glob("quarantine-*"))))

    def exists(self, name: str) -> bool:
        return Path(self.root, name).exists()

    def leftovers(self) -> list[str]:
        names = [str(one.relative_to(self.root)) for one in Path(self.root).rglob("*")]
        return [one for one in names if "draft" in one or "tmp" in one]

    def files(self, name: str, run: str) -> list[str]:
        return names_below(Path(self.root, name), run)


def names_below(folder: Path, run: str) -> list[str]:
    found = (str(one.relative_to(folder)) for one in folder.rglob("*"))
    return sorted(one.replace(run, "RUN") for one in found)


class Csv(Files):
    suffix = "csv"

    def write_file(self, rows: pa.Table, path: Path) -> None:
        pacsv.write_csv(rows, path)

    def read_file(self, path: Path) -> pa.Table:
        return pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(strings_can_be_null=True))


class JsonLines(Files):
    suffix = "jsonl"
    has_schema = False

    def write_file(self, rows: pa.Table, path: Path) -> None:
        import json

        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.to_pylist()]
        path.write_text("".join(lines), encoding="utf-8")

    def read_file(self, path: Path) -> pa.Table:
        return pajson.read_json(path) if path.stat().st_size else pa.table({})


class ArrowFiles(Files):
    suffix = "arrow"

    def write_file(self, rows: pa.Table, path: Path) -> None:
        feather.write_feather(rows, str(path), compression="uncompressed")

    def read_file(self, path: Path) -> pa.Table:
        return feather.read_table(str(path))


class OneFile(Csv):
    """A folder as the source; one file, which is joined at the end, as the sink."""

    is_one_file = True

    def source(self, name: str) -> str:
        return f"{self.root}/{name}/"

    def sink(self, name: str) -> str:
        Path(self.root).mkdir(exist_ok=True)
        return f"{self.root}/{name}.csv"

    def read(self, name: str) -> pa.Table:
        return self.read_file(Path(self.root, f"{name}.csv"))

    def quarantine(self, name: str, run: str) -> pa.Table:
        folder = Path(self.root, f".{name}.csv.parts", "_bascule", run)
        return pa.concat_tables(map(pq.read_table, sorted(folder.glob("quarantine-*"))))

    def exists(self, name: str) -> bool:
        return Path(self.root, f"{name}.csv").exists()

    def files(self, name: str, run: str) -> list[str]:
        return names_below(Path(self.root, f".{name}.csv.parts"), run)


class Delta(Place):
    scheme = "delta"
    has_order = False

    def sink(self, name: str) -> str:
        return f"delta://{self.root}/{name}"

    def put(self, name: str, rows: pa.Table) -> None:
        import deltalake

        shutil.rmtree(Path(self.root, name), ignore_errors=True)
        deltalake.write_deltalake(str(Path(self.root, name)), rows.slice(0, 600), mode="append")
        if rows.num_rows > 600:
            deltalake.write_deltalake(str(Path(self.root, name)), rows.slice(600), mode="append")

    def read(self, name: str) -> pa.Table:
        import deltalake

        return deltalake.DeltaTable(str(Path(self.root, name))).to_pyarrow_table()

    def quarantine(self, name: str, run: str) -> pa.Table:
        folder = Path(self.root, name, "_bascule", "runs", run)
        return pa.concat_tables(map(pq.read_table, sorted(folder.glob("quarantine-*"))))

    def exists(self, name: str) -> bool:
        return Path(self.root, name).exists()

    def files(self, name: str, run: str) -> list[str]:
        return names_below(Path(self.root, name, "_bascule"), run)

    def leftovers(self) -> list[str]:
        """Files of rows that no version of a table names, and drafts of files."""
        import deltalake

        left = [str(one) for one in Path(self.root).rglob("*#*")]
        for log in Path(self.root).glob("*/_delta_log"):
            table = deltalake.DeltaTable(str(log.parent))
            every, named = (
                table.vacuum(0, enforce_retention_duration=False, full=full)
                for full in (True, False)
            )
            left += {*every} - {*named}
        return left


# -- databases --


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Database(Place):
    """Tables of a database."""

    def tables(self) -> set[str]:
        raise NotImplementedError

    def exists(self, name: str) -> bool:
        return name in self.tables()

    def leftovers(self) -> list[str]:
        """Tables of runs that were to replace another: their names end in the run's id."""
        return [
            one for one in self.tables() if one.count("_") == 1 and len(one.split("_")[1]) == 16
        ]


class DuckDb(Database):
    scheme = "duckdb"

    def sink(self, name: str) -> str:
        return f"duckdb:///{self.root}.db#{name}"

    def _open(self) -> Any:
        return closing(duckdb.connect(f"{self.root}.db"))

    def put(self, name: str, rows: pa.Table) -> None:
        with self._open() as connection:
            connection.register("rows_to_put", rows)
            connection.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
            connection.execute(f"CREATE TABLE {quoted(name)} AS FROM rows_to_put").fetchall()

    def read(self, name: str) -> pa.Table:
        with self._open() as connection:
            return connection.sql(f"FROM {quoted(name)}").to_arrow_table()

    def tables(self) -> set[str]:
        with self._open() as connection:
            tables = "SELECT table_name FROM information_schema.tables"
            return {name for (name,) in connection.execute(tables).fetchall()}


def filled(cursor: Any, name: str, rows: pa.Table, mark: str) -> None:
    """Make a table by plain SQL, with the parameters of a driver."""
    kinds = {"int64": "BIGINT", "double": "DOUBLE PRECISION", "string": "TEXT"}
    columns = ", ".join(f"{quoted(one.name)} {kinds[str(one.type)]}" for one in rows.schema)
    cursor.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
    key = f", PRIMARY KEY ({quoted(rows.column_names[0])})"
    cursor.execute(f"CREATE TABLE {quoted(name)} ({columns}{key})")
    values = [tuple(row.values()) for row in rows.to_pylist()]
    marks = ", ".join([mark] * len(rows.column_names))
    if values:
        cursor.executemany(f"INSERT INTO {quoted(name)} VALUES ({marks})", values)


class Sqlite(Database):
    scheme = "sqlite"

    def sink(self, name: str) -> str:
        return f"sqlite:///{self.root}.sqlite#{name}"

    def put(self, name: str, rows: pa.Table) -> None:
        with closing(sqlite3.connect(f"{self.root}.sqlite")) as connection:
            filled(connection, name, rows, "?")
            connection.commit()

    def read(self, name: str) -> pa.Table:
        with closing(sqlite3.connect(f"{self.root}.sqlite")) as connection:
            cursor = connection.execute(f"SELECT * FROM {quoted(name)}")
            return table_of([one[0] for one in cursor.description], cursor.fetchall())

    def tables(self) -> set[str]:
        with closing(sqlite3.connect(f"{self.root}.sqlite")) as connection:
            names = "SELECT name FROM sqlite_master WHERE type = 'table'"
            return {name for (name,) in connection.execute(names)}


class Postgresql(Database):
    scheme = "postgresql"
    needs = "postgresql_url"

    def sink(self, name: str) -> str:
        return f"{self.root}#{name}"

    def put(self, name: str, rows: pa.Table) -> None:
        import psycopg

        with psycopg.connect(self.root) as connection:
            filled(connection.cursor(), name, rows, "%s")

    def read(self, name: str) -> pa.Table:
        import psycopg

        with psycopg.connect(self.root) as connection:
            cursor = connection.execute(f"SELECT * FROM {quoted(name)}")
            assert cursor.description
            return table_of([one.name for one in cursor.description], cursor.fetchall())

    def tables(self) -> set[str]:
        import psycopg

        with psycopg.connect(self.root) as connection:
            names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            return {name for (name,) in connection.execute(names)}


class Sqlalchemy(Postgresql):
    """A URL that only SQLAlchemy knows; over the same server."""

    scheme = "postgresql+psycopg"

    def sink(self, name: str) -> str:
        return f"{self.root.replace('postgresql://', 'postgresql+psycopg://')}#{name}"


def table_of(names: list[str], rows: list[Any]) -> pa.Table:
    columns = [*zip(*rows, strict=True)] or [()] * len(names)
    return pa.table(dict(zip(names, map(list, columns), strict=True)))


PLACES: Mapping[str, type[Place]] = {
    "parquet": Files, "csv": Csv, "jsonl": JsonLines, "arrow": ArrowFiles, "one file": OneFile,
    "delta": Delta, "duckdb": DuckDb, "sqlite": Sqlite, "postgresql": Postgresql,
    "sqlalchemy": Sqlalchemy,
}  # fmt: skip
