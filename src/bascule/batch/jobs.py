"""What a user asks for: the model, the source, the sink, and how; from a JOB.toml or arguments."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from bascule.core import Invalid, check_file

Mode = Literal["error", "append", "replace", "replace_partitions", "upsert"]
MODES = ("error", "append", "replace", "replace_partitions", "upsert")
CHUNK_ROWS = 500_000


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A batch scoring job.

    Attributes:
        model: A bundle's folder, or a registered model: `late@champion`.
        source: Files (a path, a glob, or a URL of a bucket), `delta://TABLE`, or a database and
            a table: `postgresql://HOST/DB#TABLE`.
        sink: A folder, a file, or a table, written as the source is.
        columns: The answers to write; all of the model's if empty.
        keep: The columns of the source to write too; all of them if None.
        ignore: The columns of the source that a model without names of columns does not read.
        names: Other names for answers, by their own: `{prediction = "risk"}`.
        prefix: What the names of all other added columns begin with, so that the rows of an
            earlier job, which have such columns, can be scored again.
        confidence: Of intervals and prediction sets.
        parameters: Of other extra outputs, by name.
        where: A condition in SQL on the rows to score.
        query: A query in SQL in place of the source's table.
        key: The column that tells rows of a query, and rows to replace with `upsert`.
        limit: Score at most so many rows; 0 for all.
        mode: What to do where the sink has rows of another run.
        partition_by: The columns by whose values a folder or a Delta table is divided; with mode
            `replace_partitions`, those of a database's table whose values say which rows go.
        format: Of files in a folder: parquet, csv, jsonl or arrow.
        chunk_rows: About how many rows are committed at once.
        memory_mb: About how much memory the run takes.
        workers: Chunks that are scored side by side; 0 for one per core.
        retries: How often a chunk is tried again after a transient fault.
        max_quarantined: The share of rows over which the job fails.
        checks: Conditions on the rows that stop the job: `missing(age) <= 0.1`.
        warnings: The same, and the job goes on.
        with_time: Whether the time of scoring is a column, which differs between runs.
        delimiter: Between the values of a line of CSV.
        encoding: Of CSV, as Python names it: `utf-8`, `latin-1`.
        decimal_point: Of numbers in CSV.
        nulls: The words that are no value in CSV; those of pyarrow if empty: `NA`, `null`...
        types: Of columns of CSV, by name: `text`, `int64`, `decimal(23, 4)`, `date32`...
        record: What monitoring gets: `profile` of a sample of the rows, all `rows`, or `off`.
        on: The engine that runs chunks: `local`, `ray`, or `ray://HOST:PORT` of a cluster.
    """

    model: str
    source: str = msgspec.field(name="from")
    sink: str = msgspec.field(name="to")
    columns: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    names: dict[str, str] = {}
    prefix: str = ""
    confidence: float | None = None
    parameters: dict[str, Any] = {}
    where: str = ""
    query: str = ""
    key: str = ""
    limit: int = 0
    mode: Mode = "error"
    partition_by: tuple[str, ...] = ()
    format: str = ""
    chunk_rows: int = CHUNK_ROWS
    memory_mb: int = 1000
    workers: int = 0
    retries: int = 4
    max_quarantined: float = 0.01
    checks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    with_time: bool = False
    delimiter: str = ","
    encoding: str = "utf-8"
    decimal_point: str = "."
    nulls: tuple[str, ...] = ()
    types: dict[str, str] = {}
    record: Literal["profile", "rows", "off"] = "profile"
    on: str = "local"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise Invalid(f"{name}: {getattr(self, name)} is not >= {least}", field=name)
        if self.max_quarantined > 1:
            raise Invalid(f"max_quarantined: {self.max_quarantined} is not a share from 0 to 1")
        if self.on not in ("local", "ray") and not self.on.startswith("ray://"):
            raise Invalid(
                f"on: there is no engine {self.on!r}", hint="use local, ray or ray://HOST:PORT",
                field="on",
            )  # fmt: skip
        if self.on != "local" and self.record == "rows":
            raise Invalid("record: rows are recorded on local alone", hint="--record profile")
        for name in ("delimiter", "decimal_point"):
            if len(getattr(self, name)) != 1:
                raise Invalid(f"{name}: {getattr(self, name)!r} is not one character", field=name)
        if self.mode == "replace_partitions" and not self.partition_by:
            raise Invalid(
                "mode replace_partitions needs the columns of partitions",
                hint="add --partition-by COLUMN",
            )
        if self.mode == "upsert" and not self.key:
            raise Invalid("mode upsert needs the key of its rows", hint="add --key COLUMN")

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    def identity(self) -> dict[str, Any]:
        """The options that change what is written, which a run's id is made of."""
        every = {name: value for name, value in self.to_json().items() if name not in _HOW}.items()
        # Runs that were begun before there was such a field keep their ids.
        return {name: v for name, v in every if name not in _LATER or v != _LATER[name]}


_LEAST = {
    "limit": 0, "chunk_rows": 1, "memory_mb": 50, "workers": 0, "retries": 0, "max_quarantined": 0,
}  # fmt: skip
_HOW = frozenset(
    ("model", "memory_mb", "workers", "retries", "max_quarantined", "checks", "warnings")
) | {"record", "on"}


_LATER: dict[str, Any] = {
    "ignore": (), "delimiter": ",", "encoding": "utf-8", "decimal_point": ".", "nulls": (),
    "types": {}, "names": {}, "prefix": "", "partition_by": (),
    "parameters": {},
}  # fmt: skip
"""Fields that came later, with what they are unless they are set."""


def job_of(content: Mapping[str, Any], place: str = "job") -> Job:
    """A job from plain values. Raises `Invalid`, which names the field."""
    parameters = content.get("parameters")
    if isinstance(parameters, dict) and "confidence" in parameters:  # a field: one run, one id
        others = {name: at for name, at in parameters.items() if name != "confidence"}
        content = {**content, "confidence": parameters["confidence"], "parameters": others}
    try:
        return msgspec.convert(dict(content), Job)
    except msgspec.ValidationError as problem:
        raise Invalid(
            f"{place}: {problem}", hint=f"its fields are {', '.join(sorted(_FIELDS))}"
        ) from None


_FIELDS = {one.encode_name for one in msgspec.structs.fields(Job)}


def read_job(path: Path) -> Job:
    """The job in a TOML file.

    Raises:
        NotFound: There is no such file.
        Invalid: It is no TOML, or a field is missing, unknown or of the wrong type.
    """
    return job_of(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The fields of the job of any kind in a TOML file; raises as `read_job` does."""
    check_file(path, "job")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise Invalid(
            f"{path} is no TOML: {problem}", hint="see docs/how-to/score-a-table"
        ) from None
