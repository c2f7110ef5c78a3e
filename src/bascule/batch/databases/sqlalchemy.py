"""Any database that SQLAlchemy has a dialect for: `mysql+pymysql://HOST/DB#TABLE`.

Sure and slow: every value becomes a Python object. PostgreSQL, DuckDB and files go by Arrow.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
import sqlalchemy as sa

from bascule.batch.addresses import Address
from bascule.batch.databases.port import KEY, MAX_DIGITS, Access, Selection
from bascule.batch.places import AWAY_HINT, FULL_HINT, is_full
from bascule.core import (
    BasculeError,
    Conflict,
    Invalid,
    MissingExtra,
    NotFound,
    Unavailable,
    first_line,
    masked_text,
)

_GUESSED_ROWS = 10_000
"""Of a query, to find the types of its columns."""
_INSERTED_ROWS = 10_000
_ASKED_KEYS = 1_000
"""Keys in one condition; databases bound the number of parameters."""
_KEY_LENGTH = 255
"""Of texts in a primary key: MySQL, for one, indexes no unbounded text."""

_SQL_TYPES: tuple[tuple[Any, type[sa.types.TypeEngine[Any]]], ...] = (
    (kinds.is_boolean, sa.Boolean),
    (kinds.is_int64, sa.BigInteger),
    (kinds.is_integer, sa.Integer),
    (kinds.is_float64, sa.Double),
    (kinds.is_floating, sa.Float),
    (kinds.is_string, sa.Text),
    (kinds.is_binary, sa.LargeBinary),
    (kinds.is_date, sa.Date),
    (kinds.is_time, sa.Time),
)
_WRONG = ("no such", "syntax error", "has no column")
"""What SQLite says of wrong SQL, in the class of error that it has for a locked file too."""


class _DecimalText(sa.TypeDecorator[Any]):
    """Decimals as text, for SQLite, whose numbers are doubles."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Any) -> str | None:
        return None if value is None else str(value)


class SqlDatabase:
    """A database behind an engine of SQLAlchemy; each session has a connection of its own."""

    has_one_writer = True  # Python holds its lock for most of the time anyway

    def __init__(self, text: str, *, needs_table: bool, **options: Any) -> None:
        self._address = Address.of(text, needs_table=needs_table)
        self.place, self.table = self._address.place, self._address.table
        try:
            self._engine = sa.create_engine(
                self._address.url, poolclass=sa.pool.NullPool, **options
            )
        except sa.exc.NoSuchModuleError:
            scheme = text.partition("://")[0]
            raise Invalid(
                f"{self.place}: SQLAlchemy has no dialect {scheme!r}",
                hint="check the spelling, or install the dialect: pip install snowflake-sqlalchemy",
            ) from None
        except sa.exc.ArgumentError as problem:
            raise Invalid(f"{self.place} is no URL of a database: {first_line(problem)}") from None
        except ImportError as problem:
            raise MissingExtra(
                f"{self.place} needs the package {problem.name}",
                hint=f"pip install {problem.name}",
            ) from None

    # -- reading --

    def table_key(self) -> str:
        """The column of the primary key, where it has one."""
        with self._connected() as connection:
            found = self._reflected(connection).primary_key.columns.keys()
        return found[0] if len(found) == 1 else ""

    def _reflected(self, connection: sa.Connection) -> sa.Table:
        name, schema = self._address.table, self._address.schema or None
        table = sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection)
        for column in table.columns:
            if isinstance(column.type, sa.Numeric) and not column.primary_key:
                # Without decimals of its own, SQLite's are made of a float of ten digits.
                column.type.asdecimal = connection.dialect.supports_native_decimal
        return table

    def schema(self, rows: Selection) -> pa.Schema:
        with self._connected() as connection:
            if not rows.query:
                columns = self._reflected(connection).columns
                kinds_ = [_arrow_type(one.type, rows.is_number(one.name)) for one in columns]
                return pa.schema(list(zip(columns.keys(), kinds_, strict=True)))
            result = connection.execute(self._select(connection, rows).limit(_GUESSED_ROWS))
            names = list(result.keys())[:-1]  # without the key
            read = [*zip(*result.fetchall(), strict=True)] or [()] * len(names)
        return pa.schema(
            [(name, _guessed(name, read[n], rows.is_number(name))) for n, name in enumerate(names)]
        )

    def _select(self, connection: sa.Connection, rows: Selection) -> Any:
        """The rows in the order of their key, which is the last column."""
        key: Any = sa.column(rows.key)
        if rows.query:
            relation: Any = sa.text(f"({_plain(rows.query)}) AS rows_to_score")
            named: list[Any] = [sa.column(one) for one in rows.columns] or [sa.text("*")]
            chosen = sa.select(*named).select_from(relation)
        else:
            relation = self._reflected(connection)
            chosen = sa.select(
                *[relation.columns[one] for one in rows.columns or relation.c.keys()]
            )
            key = relation.columns.get(rows.key, key)
        if rows.where:
            chosen = chosen.where(sa.text(f"({_plain(rows.where)})"))
        if rows.first is not None:
            chosen = chosen.where(key >= rows.first)
        if rows.last is not None:
            chosen = chosen.where(key <= rows.last)
        return chosen.add_columns(key.label(KEY)).order_by(key)

    def read(self, rows: Selection, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        with self._connected() as connection:
            streamed = connection.execution_options(stream_results=True, max_row_buffer=batch_rows)
            with streamed.execute(self._select(connection, rows)) as result:
                while found := result.fetchmany(batch_rows):
                    yield from _batches(found, schema)

    # -- writing --

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with _explaining(self.place), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[_Session]:
        with self._connected() as connection:
            yield _Session(connection, self._address.schema or None)

    def close(self) -> None:
        self._engine.dispose()


class _Session:
    """A transaction of a connection, which closing it undoes."""

    def __init__(self, connection: sa.Connection, schema: str | None) -> None:
        self.connection = connection
        self._schema = schema

    def rows(self, statement: str) -> list[Any]:
        found = self.connection.execute(sa.text(_plain(statement)))
        return [tuple(row) for row in found] if found.returns_rows else []

    def name_of(self, table: str) -> str:
        return ".".join(self.quote(one) for one in (self._schema, table) if one)

    def quote(self, name: str) -> str:
        return str(self.connection.dialect.identifier_preparer.quote(name))

    def columns(self, table: str) -> list[str] | None:
        inspector = sa.inspect(self.connection)
        if not inspector.has_table(table, self._schema):
            return None
        return [one["name"] for one in inspector.get_columns(table, self._schema)]

    def create(self, table: str, schema: pa.Schema, key: Sequence[str] = ()) -> None:
        columns = []
        for field in schema:
            kind = _sql_type(field)
            is_key = field.name in key
            if is_key and isinstance(kind, sa.Text):
                kind = sa.String(_KEY_LENGTH)
            columns.append(sa.Column(field.name, kind, primary_key=is_key, autoincrement=False))
        sa.Table(table, sa.MetaData(), *columns, schema=self._schema).create(self.connection)

    def add_columns(self, table: str, schema: pa.Schema) -> None:
        dialect = self.connection.dialect
        for field in schema:
            kind = _sql_type(field).compile(dialect)
            self.rows(f"ALTER TABLE {self.name_of(table)} ADD {self.quote(field.name)} {kind}")

    def append(self, table: str, rows: pa.RecordBatchReader) -> None:
        for batch in rows:
            self._insert(table, batch)

    def _insert(self, table: str, batch: pa.RecordBatch) -> None:
        target = self._table(table, batch.schema)
        for start in range(0, batch.num_rows, _INSERTED_ROWS):
            values = batch.slice(start, _INSERTED_ROWS).to_pylist()
            self.connection.execute(sa.insert(target), values)

    def _table(self, name: str, schema: pa.Schema) -> sa.TableClause:
        columns = (sa.column(one.name, _sql_type(one)) for one in schema)
        return sa.table(name, *columns, schema=self._schema)

    def upsert(self, table: str, rows: pa.RecordBatchReader, key: str) -> None:
        target = self._table(table, rows.schema)
        # Names of parameters differ from those of columns, which SQLAlchemy keeps for itself.
        names = {name: f"new_{n}" for n, name in enumerate(rows.schema.names)}
        change = (
            sa.update(target)
            .where(target.c[key] == sa.bindparam(names[key]))
            .values({name: sa.bindparam(new) for name, new in names.items() if name != key})
        )
        for batch in rows:
            for start in range(0, batch.num_rows, _ASKED_KEYS):
                part = batch.slice(start, _ASKED_KEYS)
                is_old = self._are_there(target.c[key], part.column(key))
                self._insert(table, part.filter(pc.invert(is_old)))
                if old := part.filter(is_old).rename_columns(list(names.values())).to_pylist():
                    self.connection.execute(change, old)

    def _are_there(self, column: Any, keys: pa.Array) -> pa.Array:
        query = sa.select(column).where(column.in_(keys.to_pylist()))
        found = pa.array(self.connection.execute(query).scalars().all())
        return pc.is_in(keys, found.cast(keys.type))

    def insert_from(self, table: str, source: str, columns: Sequence[str], end: str = "") -> None:
        names = ", ".join(map(self.quote, columns))
        new = f"SELECT {names} FROM {self.name_of(source)}{end}"
        self.rows(f"INSERT INTO {self.name_of(table)} ({names}) {new}")

    def commit(self) -> None:
        self.connection.commit()


def _plain(sql: str) -> str:
    """SQL of a user, in which `:name` is no parameter."""
    return sql.replace(":", "\\:")


def _arrow_type(kind: sa.types.TypeEngine[Any], is_number: bool) -> pa.DataType:
    """The type of a column; a decimal without digits of its own is text unless a model reads it."""
    try:
        python = kind.python_type
    except NotImplementedError:
        return pa.string()
    if python is decimal.Decimal:
        precision, scale = getattr(kind, "precision", None), getattr(kind, "scale", None)
        if precision and scale is not None and precision <= MAX_DIGITS:
            return pa.decimal128(precision, scale)
        return pa.float64() if is_number else pa.string()
    if python is datetime.datetime:
        return pa.timestamp("us", "UTC" if getattr(kind, "timezone", False) else None)
    types = {
        bool: pa.bool_(), int: pa.int64(), float: pa.float64(), bytes: pa.binary(),
        datetime.date: pa.date32(), datetime.time: pa.time64("us"),
    }  # fmt: skip
    return types.get(python, pa.string())


def _guessed(name: str, values: Sequence[Any], is_number: bool) -> pa.DataType:
    """The type of a column of a query, by its first values."""
    try:
        kind = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise Invalid(
            f"column {name!r} of the query has values of several types",
            hint="convert it in the query: CAST(... AS ...)",
            field=name,
        ) from None
    if not kinds.is_decimal(kind):
        return kind
    return pa.float64() if is_number else pa.string()


def _batches(rows: Sequence[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows whose last value is the key; halved until rows that do not fit are alone."""
    *columns, keys = zip(*rows, strict=True)
    is_alone = len(rows) == 1
    try:
        arrays = [
            _array(values, kind, or_text=is_alone)
            for values, kind in zip(columns, schema.types, strict=True)
        ]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        half = len(rows) // 2
        yield from _batches(rows[:half], schema)
        yield from _batches(rows[half:], schema)
    else:
        yield pa.RecordBatch.from_arrays([*arrays, pa.array(keys)], [*schema.names, KEY])


def _array(values: Sequence[Any], kind: pa.DataType, *, or_text: bool) -> pa.Array:
    given = values
    convert = float if kinds.is_floating(kind) else str if kinds.is_string(kind) else None
    if convert is not None and any(isinstance(one, decimal.Decimal) for one in values):
        given = [None if one is None else convert(one) for one in values]
    try:
        return pa.array(given, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        if not or_text and not kinds.is_string(kind):
            raise
        return pa.array([None if one is None else str(one) for one in values], pa.string())


def _sql_type(field: pa.Field) -> sa.types.TypeEngine[Any]:
    """The column that holds values of an Arrow type.

    Raises:
        Invalid: There is none, as for lists.
    """
    kind = field.type
    if kinds.is_timestamp(kind):
        return sa.DateTime(timezone=kind.tz is not None)
    if kinds.is_decimal(kind):
        return sa.Numeric(kind.precision, kind.scale).with_variant(_DecimalText(), "sqlite")
    for is_kind, made in _SQL_TYPES:
        if is_kind(kind):
            column: sa.types.TypeEngine[Any] = made()
            return column
    raise Invalid(
        f"column {field.name!r} is {kind}, which a table of this database cannot hold",
        hint="name the columns of the source to write with --keep",
        field=field.name,
    )


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.NoSuchTableError:
        raise NotFound(
            f"{place}: there is no such table", hint="check the names of schema and table"
        ) from None
    except sa.exc.SQLAlchemyError as problem:
        raise explained(problem, place) from None


def explained(problem: sa.exc.SQLAlchemyError, place: str) -> BasculeError:
    """The kind of an error of SQLAlchemy, without the statement and its values."""
    cause = getattr(problem, "orig", None) or problem
    said = f"{place}: {masked_text(first_line(cause))}"
    if isinstance(problem, sa.exc.IntegrityError):
        return Conflict(said, hint="see what the constraint asks, or write elsewhere")
    if is_full(cause):
        return Invalid(said, hint=FULL_HINT)
    is_away = isinstance(problem, (sa.exc.OperationalError, sa.exc.InterfaceError))
    if is_away and not any(one in str(cause) for one in _WRONG):
        return Unavailable(said, hint=AWAY_HINT)
    return Invalid(said, hint="check the query and the types of the table")


def open_database(text: str, access: Access, *, needs_table: bool) -> SqlDatabase:  # noqa: ARG001
    """The database of a text; see `databases.table`."""
    return SqlDatabase(text, needs_table=needs_table)
