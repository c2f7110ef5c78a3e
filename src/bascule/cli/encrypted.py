"""The commands about encrypted rows: a client's key, encrypt, answer, decrypt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import RefOrPath
from bascule.cli.screen import say
from bascule.core import Invalid, counted, first_line, writing

if TYPE_CHECKING:
    from bascule.bundle import Encrypted

_Key = Annotated[Path, typer.Option(help="The client's key: it never leaves the client.")]
_Out = Annotated[Path, typer.Argument(help="The file to write.")]


def key(to: _Out) -> None:
    """Make a client's key."""
    from bascule.bundle import new_client_key

    new_client_key(to)
    say(f"wrote {to}: keep it where the rows are")


def encrypt(
    rows: Annotated[Path, typer.Argument(help="Rows (.parquet .csv .jsonl .feather).")],
    to: _Out,
    key: _Key,
) -> None:
    """Encrypt rows, for the model's side."""
    from bascule.batch import read_rows
    from bascule.bundle import encrypt_rows

    table = read_rows(rows, "rows")
    if not hasattr(table, "column_names"):
        raise Invalid("the rows have no names of columns", hint="give a table: .parquet or .csv")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    _write(to, encrypt_rows(key, columns))


def answer(
    bundle: RefOrPath,
    encrypted: Annotated[Path, typer.Argument(help="What encrypt wrote.")],
    to: _Out,
) -> None:
    """Compute the margins of encrypted rows; needs no key."""
    from bascule.bundle import answer_encrypted, load

    rows = _read(encrypted, "context")
    _write(to, answer_encrypted(load(context.find(bundle)[1]), rows))


def decrypt(
    margins: Annotated[Path, typer.Argument(help="What answer wrote.")], to: _Out, key: _Key
) -> None:
    """Decrypt the answers into a table, a column for each place of the output."""
    import pyarrow as pa

    from bascule.batch import check_output, write_table
    from bascule.bundle import decrypt_answers

    check_output(to)
    ((name, values),) = decrypt_answers(key, _read(margins, "link")).items()
    names = [name] if values.shape[1] == 1 else [f"{name}.{n}" for n in range(values.shape[1])]
    write_table(pa.table(dict(zip(names, values.T, strict=True))), to)
    say(f"wrote {counted(len(values), 'row')} to {to}")


def _write(to: Path, content: Encrypted) -> None:
    import msgspec

    with writing(to):
        to.write_bytes(msgspec.msgpack.encode(content))
    say(f"wrote {content.rows:,} encrypted rows to {to}")


def _read(file: Path, part: str) -> Encrypted:
    """What a step has written, of which this part is not empty."""
    import msgspec

    from bascule.bundle import Encrypted

    try:
        content = msgspec.msgpack.decode(file.read_bytes(), type=Encrypted)
        problem = "" if getattr(content, part) else "it is of another step"
    except (OSError, msgspec.DecodeError) as damage:
        problem = first_line(damage)
    if problem:
        raise Invalid(
            f"{file} is not of this step: {problem}",
            hint="bascule encrypted encrypt, then answer, then decrypt",
        )
    return content


encrypted_group = context.group_of(
    "Answers of linear models on rows that the server cannot read.", key, encrypt, answer, decrypt
)
