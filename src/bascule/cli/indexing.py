"""The commands about indexes of vectors: build one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import print_either


def build(
    table: Annotated[Path, typer.Argument(help="A table: .parquet, .csv or .arrow.")],
    model: Annotated[
        str, typer.Option(help="The embedding: a version, or the folder of a bundle.")
    ],
    to: Annotated[Path, typer.Option(help="The folder to make; the index is named after it.")],
    text: Annotated[str, typer.Option(help="The column of texts to embed.")] = "",
    vector: Annotated[str, typer.Option(help="Or the column of vectors of that model.")] = "",
    id_column: Annotated[
        str, typer.Option("--id", help="The column that names a row. Default: its number.")
    ] = "",
    payload: Annotated[
        list[str] | None,
        typer.Option(help="A column to answer; may be repeated.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="How many rows are answered.")] = 10,
    search: Annotated[str, typer.Option(help="exact, or hnsw for many rows.")] = "exact",
    overwrite: Annotated[bool, typer.Option(help="Replace the bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the index of a table: a bundle to push and serve as any model."""
    from bascule.batch import read_rows
    from bascule.bundle import load
    from bascule.packing import VectorIndex, pack

    embedding = load(context.find(model)[1])
    index = VectorIndex(
        read_rows(table, "table"), embedding, text, vector, id_column, payload or (), k, search
    )
    bundle = pack(index, name=to.name.removesuffix(".bundle"), to=to, overwrite=overwrite)
    facts = {"name": bundle.name, "digest": bundle.digest, "embedding": embedding.digest}
    print_either(facts, f"{bundle.name} {bundle.digest[:19]} at {to}", as_json=as_json)


index_group = context.group_of("Bundles that answer the nearest rows.", build)
