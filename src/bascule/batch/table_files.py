"""Tables in files: rows to pack, check and predict with, and answers to keep.

pyarrow is imported when a table is read or written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bascule.batch.places import away, check_no_delta, find_files, format_of, open_place
from bascule.batch.sinks.writers import WRITERS
from bascule.bundle import Answer, flat
from bascule.bundle.disk import Manifest
from bascule.core import (
    Invalid,
    TooLarge,
    check_file,
    check_writable,
    first_line,
    masked,
    replacing,
)

if TYPE_CHECKING:
    import pyarrow as pa

_FREE_TABLE_BYTES = 128 << 20
_MAX_TABLE_GROWTH = 64
"""How many times its own size a table from anywhere may grow, beyond `_FREE_TABLE_BYTES`."""
_VALUE_BYTES, _ROWS_AT_ONCE = 8, 8_192
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl", ".feather", ".npy", ".npz")


def read_rows(path: Path, what: str) -> Any:
    """The rows of a file: a pyarrow Table, or for .npy and .npz a matrix or a dict of arrays.

    Raises:
        NotFound: There is no such file.
        Invalid: It cannot be read.
    """
    check_file(path, what)
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise Invalid(
            f"{what} {path.name}: a {suffix or 'nameless'} file is not known",
            hint=f"use one of {', '.join(TABLE_SUFFIXES)}",
        )
    try:
        return _read_numpy(path) if suffix in (".npy", ".npz") else _read_arrow(path)
    except (OSError, ValueError, KeyError) as error:
        raise Invalid(f"{what} {path} cannot be read: {first_line(error)}") from None


def read_files(place: str) -> pa.Table:
    """All rows of a file, a folder, a glob or a bucket; folders such as `month=1` are columns.

    Raises:
        Invalid: The place has files of several kinds, or they cannot be read.
        NotFound: No file is there.
        Unavailable: The bucket is away.
    """
    with _dataset(place) as rows:
        table: pa.Table = rows.to_table()
        return table


def count_files(place: str) -> int:
    """How many rows are there; of Parquet, the footers are read alone. Raises as `read_files`."""
    with _dataset(place) as rows:
        return int(rows.count_rows())


@contextmanager
def _dataset(place: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.dataset as ds

    filesystem, path = open_place(place)
    try:
        check_no_delta(filesystem, path, place)
        files = find_files(filesystem, path, masked(place))
        form = format_of(files, masked(place))
        yield ds.dataset(files, filesystem=filesystem, format=form, partitioning="hive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as problem:
        raise Invalid(
            f"{masked(place)} cannot be read: {first_line(problem)}",
            hint="give files of one kind, with the same columns",
        ) from None
    except OSError as problem:
        raise away(masked(place), problem) from None


def check_growth(path: Path) -> None:
    """Raise `TooLarge` for a Parquet file whose values take far more memory than it has bytes.

    Run lengths give a billion equal values in a hundred bytes, and a dictionary repeats one long
    text a million times. A file that is none is left to be refused where it is read.
    """
    import pyarrow as pa

    if path.suffix.lower() != ".parquet":
        return
    limit = _FREE_TABLE_BYTES + _MAX_TABLE_GROWTH * path.stat().st_size
    try:
        for size in _sizes_of_values(path):
            if size > limit:
                raise TooLarge(
                    f"{path.name} holds at least {size:,} bytes of values, over "
                    f"{_MAX_TABLE_GROWTH} times its size",
                    hint="send fewer rows or columns at once",
                )
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError):
        return


def _sizes_of_values(path: Path) -> Iterator[int]:
    """What the values of a Parquet file take, in bytes: as declared, then as far as it was read.

    Texts are read without being repeated, and few at a time: prefixes may be left out of the file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema
        leaves = [schema.column(number) for number in range(len(schema))]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    total = sum(
        max(group.num_rows, group.column(number).num_values) * max(leaf.length, _VALUE_BYTES)
        for group in groups
        for number, leaf in enumerate(leaves)
    )
    yield max(total, sum(group.total_byte_size for group in groups))
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    for text in texts:
        try:
            for size in _text_sizes(path, text, [text], _ROWS_AT_ONCE):
                yield total + size
        except OSError:  # encodings that give no dictionary, such as DELTA_BYTE_ARRAY
            for size in _text_sizes(path, text, [], _ROWS_AT_ONCE // 16):
                yield total + size
        total += size


def _text_sizes(path: Path, text: str, dictionaries: list[str], rows: int) -> Iterator[int]:
    import pyarrow.parquet as pq

    total = 0
    with pq.ParquetFile(path, read_dictionary=dictionaries) as file:
        yield total
        for batch in file.iter_batches(rows, columns=[text], use_threads=False):
            total += sum(map(_text_bytes, batch.columns))
            yield total


def _text_bytes(array: pa.Array) -> int:
    """The bytes of the texts in an array, each counted as often as it is there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(array.type):
        return sum(map(_text_bytes, array.flatten()))
    if pa.types.is_nested(array.type):
        return _text_bytes(array.flatten())
    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    lengths = pc.binary_length(array.dictionary).take(array.indices)
    return int(pc.sum(lengths, min_count=0).as_py())


def _read_numpy(path: Path) -> Any:
    import numpy as np

    loaded = np.load(path, allow_pickle=False)
    return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}


def _read_arrow(path: Path) -> Any:
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".parquet": pyarrow.parquet.read_table,
        ".csv": read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".feather": pyarrow.feather.read_table,
    }
    return readers[path.suffix.lower()](path)


def read_csv(source: Any) -> Any:
    """A pyarrow Table from CSV; as in pandas, an empty cell of a text column is missing too."""
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    return pyarrow.csv.read_csv(source, convert_options=options)


def read_stream(stream: BinaryIO) -> Any:
    """A pyarrow Table from CSV, JSON lines or Parquet, told apart by their first bytes.

    Raises:
        Invalid: The stream is empty or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    data = stream.read()
    if not data.strip():
        raise Invalid("standard input is empty", hint="pipe CSV, JSON lines or Parquet into it")
    reader: Callable[[Any], Any] = read_csv
    if data.startswith(b"PAR1"):
        reader = pyarrow.parquet.read_table
    elif data.lstrip().startswith(b"{"):
        reader = pyarrow.json.read_json
    try:
        return reader(pa.BufferReader(data))
    except (OSError, ValueError, KeyError) as error:
        raise Invalid(f"standard input cannot be read: {str(error).splitlines()[0]}") from None


def split_truth(
    rows: Any, targets: Sequence[str] | None, what: str, *, required: bool
) -> tuple[Any, Any]:
    """The inputs and the truth of a table; the truth is None where a target is not there.

    An .npz holds them as `X` and `y`. Several targets are a dict of columns.

    Raises:
        Invalid: `required`, and there is no truth.
    """
    if isinstance(rows, dict):
        if "X" not in rows:
            raise Invalid(f"{what}: no array X in it", hint="save it as np.savez(path, X=X, y=y)")
        return rows["X"], rows.get("y")
    if not hasattr(rows, "column_names"):
        if required:
            raise Invalid(
                f"{what} has rows and no truth", hint="save it as np.savez(path, X=X, y=y)"
            )
        return rows, None
    if not targets:
        if required:
            raise Invalid(
                f"{what}: which of its columns holds the truth?",
                hint=f"name it with --target; its columns are {', '.join(rows.column_names[:20])}",
            )
        return rows, None
    absent = [name for name in targets if name not in rows.column_names]
    if absent:
        if not required:
            return rows, None
        raise Invalid(
            f"{what} has no column {absent[0]!r}",
            hint=f"its columns are {', '.join(rows.column_names[:20])}",
        )
    truth = {name: rows.column(name).to_numpy(zero_copy_only=False) for name in targets}
    inputs = rows.drop_columns(list(truth))
    return inputs, next(iter(truth.values())) if len(truth) == 1 else truth


def as_trained(model: Any, rows: Any) -> Any:
    """The rows in the form that the model was fitted on: a table, or a plain matrix.

    scikit-learn notes the names of the columns when it is fitted on a table, and warns when it
    is then given something else.
    """
    if not hasattr(rows, "column_names") or not hasattr(model, "n_features_in_"):
        return rows
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        import numpy as np

        try:
            return np.column_stack(
                [rows.column(name).to_numpy(zero_copy_only=False) for name in rows.column_names]
            ).astype(np.float64)
        except ValueError:
            raise Invalid(
                "the model was fitted on a plain matrix, and the table has columns that are "
                "not numbers",
                hint="leave out the columns that the model does not take",
            ) from None
    missing = [name for name in names if name not in rows.column_names]
    if missing:
        raise Invalid(
            f"the model was fitted on columns that the table lacks: {', '.join(missing[:10])}",
            hint=f"its columns are {', '.join(rows.column_names[:20])}",
        )
    selected = rows.select(list(names))
    if importlib.util.find_spec("pandas") is None:
        return selected
    return selected.to_pandas()


# -- answers --


def as_table(answer: Answer, manifest: Manifest) -> pa.Table:
    """One column per output; probabilities become one column per class."""
    import pyarrow as pa

    return pa.table({name: pa.array(values) for name, values in flat(answer, manifest).items()})


def check_output(path: Path) -> None:
    """Raise `Invalid` where a table cannot be written to `path`, before any work is done."""
    if path.suffix.lower() not in _OPENERS:
        raise Invalid(
            f"--output {path.name}: a {path.suffix or 'nameless'} file is not known",
            hint=f"use one of {', '.join(_OPENERS)}",
        )
    if not path.absolute().parent.is_dir():
        raise Invalid(f"--output: there is no folder {path.absolute().parent}", hint="make it")
    check_writable(path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write beside the place and rename: the file is there whole or not at all."""
    with replacing(path) as draft:
        writer = _OPENERS[path.suffix.lower()](draft, table.schema)
        for batch in table.to_batches(max_chunksize=10_000):
            writer.write_batch(batch)
        writer.close()


_OPENERS = {suffix: opener for suffix, opener in WRITERS.values() if suffix != ".arrow"}
