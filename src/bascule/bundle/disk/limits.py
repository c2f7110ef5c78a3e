"""The bounds of what is read from a bundle, each with its reason.

A bundle may come from an unknown source. Content that grows when read (a compressed table, an
archive, a graph that allocates a tensor) is measured by what it declares before it is opened, and
refused over these bounds. They are far above what honest models need, and below what ends a
machine.
"""

from __future__ import annotations

MAX_MANIFEST_BYTES = 16 << 20
"""JSON takes some twenty times its size as values. A hundred thousand categories take 3 MB."""

MAX_FILES = 10_000
"""Each one is looked up, measured and digested; real bundles hold five."""

MAX_STATEMENT_BYTES = 16 << 20
"""A statement is a page or two; a verdict by slice of a thousand slices takes 200 kB."""

MAX_STATEMENTS = 10_000
"""All are read to find the latest of a kind."""

MAX_EXAMPLE_BYTES = 64 << 20
"""Four rows. An image of 4096 x 4096 points in three colours, written as numbers, would be more."""

MAX_ARCHIVE_MEMBERS = 1_000_000
"""Files in a skops archive. A forest of a thousand trees holds some 3,000."""

MAX_ARCHIVE_BYTES = 8 << 30
"""All that a skops archive holds once it is unpacked, counted once for every use."""

MAX_ARCHIVE_GROWTH = 200
"""How many times its own size an archive may unpack to. Arrays of trees reach 20; a bomb, 1,000."""

FREE_ARCHIVE_BYTES = 64 << 20
"""Below this an archive may grow as it likes: a small one of zeros is no bomb."""

MAX_SCHEMA_BYTES = 256 << 20
"""The description in a skops archive; 10 kB a tree."""

MAX_NODES = 5_000_000
"""Nodes of a skops description, or operators of a graph."""

MAX_INLINED = 20_000
"""Operators, and kilobytes of them, that the runtime copies where it inlines functions. ONNX
Runtime 1.28 takes 6 s of processor time for 16,000 in functions of functions, and eight times as
much for four times as many; exported networks have some thousands."""

MAX_GRAPH_DEPTH = 32
"""Graphs inside graphs, as loops and branches have them, and functions that call functions. Real
ones nest three or four deep."""

MAX_STEPS = 100_000_000
"""Operators that a graph runs because its constants say so: at least a minute of loops."""

MAX_TREE_DEPTH = 5_000
"""Tests from a root to a leaf. ONNX Runtime 1.28 builds a tree by recursion: 10,000 go well on a
stack of 8 MiB, and 100,000 end the process. Trees of a million rows are some sixty deep."""

MAX_TENSOR_ELEMENTS = 1 << 31
"""Of one tensor that a graph declares or asks for with a constant: 8 GiB in FP32."""

MAX_GROWN_ELEMENTS = 1 << 28
"""Of a tensor that a graph makes of nothing but a shape (ConstantOfShape, Expand...): 1 GiB."""

MAX_TABLE_BYTES = 4 << 30
"""The held-out rows in memory."""

MAX_TABLE_CELLS = 1 << 30
"""Rows times columns: run-length coding gives a billion equal values in a hundred bytes."""

MAX_ARRAY_HEADER_BYTES = 10_000
"""The header of a numpy array is parsed as Python; numpy's own bound."""
