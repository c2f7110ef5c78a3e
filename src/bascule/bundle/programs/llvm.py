"""Adds up trees in machine code that LLVM makes for the processor at hand.

A processor compares sixteen rows with a threshold at once, but walks down a tree with one. So no
row walks: every test of a tree is made on all rows of a block, and each that fails crosses out the
leaves on its other side; the first leaf that is left is the row's. (QuickScorer: Lucchese et al.,
"QuickScorer: a fast algorithm to rank documents with additive ensembles of regression trees", SIGIR
2015; over several rows at once: Lucchese et al., "Exploiting CPU SIMD extensions to speed-up
document scoring with tree ensembles", SIGIR 2016.) That is more tests and no branches, and wins
where trees are small. The leaves of a tree are the bits of one word, 64 of them. A larger tree is
cut into several, each with the way to it in front, and adds up to the same.

Where a tree has more than `MAX_LEAVES` leaves, rows walk: sixteen at once down one tree, which
stays in the cache while thousands of rows walk down it.

Why by hand: 65,536 rows of 500 trees of 64 leaves take 0.11 s, in ONNX Runtime 1.13 s and in oneDAL
0.35 s; of a random forest's 100 trees of 1,660 leaves, 0.93, 3.3 and 0.87 s (least of interleaved
runs, one core of an AMD EPYC).

The code (`trees.ll` and `walk.ll`) is ours and the same for all models. The trees are data that it
reads, and were checked; a bundle brings no code.

Sums are exact (`compilers.apart.exactly_summed`), thresholds are compared in the type of the
features: the bits are those of the graph in one piece.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import string
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.programs.trees import Node, Trees, TreesProgram, open_trees
from bascule.core import MissingExtra

MAX_LEAVES = 512
"""Of a tree: with more, rows walk."""
_BITS = 64
_MOST_REPEATED = 4
"""How many times as many tests the pieces of a tree may have. Trees of a library have twice at
most; one that was made for it could take sixty times the memory of its file."""
_FEW_ROW_TREES = 1_500
"""See `programs.trees.Engine`. To leave ONNX Runtime and come back costs what fifteen rows of a
hundred trees do."""
_LANES = 16
_ROWS_OF_A_THREAD = 4_096
_ROWS_AT_ONCE = 8_192
"""Their features and sums stay in the processor's cache while all trees are added up."""
making = threading.Lock()
"""Held while code is compiled: LLVM is not safe to use from two threads."""
AddUp = Callable[[int, int, int, Any, Any], None]
"""`add_up` of `trees.ll` and `walk.ll`: addresses are numbers, or what `ctypes` takes for one."""

_INSTALL = "pip install 'bascule[llvm]'"
_ALLOW = "allow it to run code that it wrote (systemd: MemoryDenyWriteExecute=no)"


@cache
def obstacle() -> str:
    """What to do so that it runs here; nothing where LLVM is installed and of use."""
    if importlib.util.find_spec("llvmlite") is None:
        return _INSTALL
    return "" if _may_run_what_it_wrote() else _ALLOW


def open_llvm(data: bytes, **settings: Any) -> TreesProgram:
    """A program from the bytes of a verified file; see `programs.trees.open_trees`.

    Raises:
        MissingExtra: LLVM is not installed, or of no use here.
        Untrusted: The file is not what `packing.compilers.apart` writes.
    """
    lacking = obstacle()
    if lacking:
        raise MissingExtra(
            "this program is machine code that LLVM makes as it is loaded, and "
            + ("LLVM is not installed" if lacking == _INSTALL else "the system forbids that"),
            hint=lacking,
        )
    return open_trees(data, _Llvm, **settings)


class _Llvm:
    """See `programs.trees.Engine`."""

    few_row_trees = _FEW_ROW_TREES

    def __init__(self, trees: Trees, threads: int) -> None:
        self._type = _thresholds(trees).dtype
        laid = _laid_out(trees)
        self._code, self._forest, self._table = laid.code, laid.arrays, laid.table
        self._address = laid.table.ctypes.data
        self._add_up = _machine_code(laid.code, self._type.name, laid.mask)
        self._threads = threads
        self._targets = len(trees.by_target)
        self._new_scratch = ctypes.c_char * laid.scratch_bytes

    def sums(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """See `programs.trees.Engine`."""
        features = np.ascontiguousarray(features, self._type)
        rows = len(features)
        sums = np.zeros((rows, self._targets))
        if self._threads == 1 or rows < 2 * _ROWS_OF_A_THREAD:
            if rows:
                self._add(features, sums)
            return sums
        parts = min(self._threads, rows // _ROWS_OF_A_THREAD)
        with ThreadPoolExecutor(parts) as pool:
            for _ in pool.map(
                self._add, np.array_split(features, parts), np.array_split(sums, parts)
            ):
                pass
        return sums

    def _add(self, features: NDArray[Any], sums: NDArray[np.float64]) -> None:
        scratch = self._new_scratch()
        for start in range(0, len(sums), _ROWS_AT_ONCE):
            part = sums[start : start + _ROWS_AT_ONCE]
            # To ask an array for its address costs as much as ten rows do.
            out = ctypes.byref(ctypes.c_char.from_buffer(part))  # type: ignore[arg-type]
            self._add_up(self._address, features[start:].ctypes.data, len(part), scratch, out)


# -- trees as the machine code reads them --


class _Layout(NamedTuple):
    """What machine code reads.

    Attributes:
        code: The name of its file.
        mask: The type of NumPy of a tree's leaves as bits.
        scratch_bytes: What it writes to meanwhile.
        arrays: Its arrays, in the order of its `%Forest`.
        table: `%Forest`: some numbers, and the addresses of the arrays.
    """

    code: str
    mask: str
    scratch_bytes: int
    arrays: tuple[NDArray[Any], ...]
    table: NDArray[np.int64]


def _layout(
    code: str, mask: str, scratch_bytes: int, sizes: list[int], arrays: Sequence[NDArray[Any]]
) -> _Layout:
    table = np.array([*sizes, *(array.ctypes.data for array in arrays)], np.int64)
    return _Layout(code, mask, scratch_bytes, tuple(arrays), table)


_ELSEWHERE = -1
"""The number of a leaf that adds nothing."""


class _Tree(NamedTuple):
    """One tree: its tests with the leaves (as bits) that are left where each fails; its leaves."""

    tests: list[int]
    masks: list[int]
    leaves: list[int]


def _laid_out(trees: Trees) -> _Layout:
    """The trees in pieces for `trees.ll`; for `walk.ll` where one of them is too large for that."""
    laid: list[tuple[int, _Tree]] = []
    for target, own in enumerate(trees.by_target):
        for nodes in own:
            pieces = _cut(nodes)
            if pieces is None:
                return _walked(trees)
            laid += [(target, _numbered(piece)) for piece in pieces]
    return _crossed_out(trees, laid)


def _crossed_out(trees: Trees, laid: list[tuple[int, _Tree]]) -> _Layout:
    """For `trees.ll`: pieces of at most 64 leaves, each with its target."""
    arrays = trees.arrays
    room = max(len(tree.leaves) for _, tree in laid)
    bits = 32 if room <= 32 else 64
    tests: list[int] = []
    masks: list[int] = []
    ends: list[int] = []
    weights = np.zeros((len(laid), room))
    passes_missing = arrays["missing"] != 0
    same = _same_tests(trees)
    for place, (_, tree) in enumerate(laid):
        # Equal tests fail together: of the 63 of a symmetric tree of CatBoost, 6 are left.
        left: dict[int, int] = {}
        for test, mask in zip(tree.tests, tree.masks, strict=True):
            left[same[test]] = left.get(same[test], -1) & mask
        # Those that a missing value fails come first.
        for passes in (False, True):
            own_tests = [test for test in left if passes_missing[test] == passes]
            tests += own_tests
            masks += [left[test] % (1 << bits) for test in own_tests]
            ends.append(len(tests))
        own = [0.0 if leaf == _ELSEWHERE else arrays["weight"][leaf] for leaf in tree.leaves]
        weights[place, : len(own)] = own
    columns, slots = np.unique(arrays["feature"][tests], return_inverse=True)
    thresholds = _thresholds(trees)[tests]
    targets = len(trees.by_target)
    return _layout(
        "trees.ll",
        f"uint{bits}",
        _LANES * (8 * targets + thresholds.itemsize * len(columns)),
        [trees.columns, len(columns), len(laid), targets, room],
        [
            columns.astype(np.int64),
            np.array(ends, np.int64),
            slots.astype(np.int64),
            thresholds,
            np.array(masks, f"uint{bits}"),
            weights,
            np.array([target for target, _ in laid], np.int64),
        ],
    )


def _same_tests(trees: Trees) -> list[int]:
    """By test: the first that asks the same."""
    asked = (trees.arrays["feature"], _thresholds(trees), trees.arrays["missing"] != 0)
    first: dict[tuple[Any, ...], int] = {}
    return [
        first.setdefault(question, test)
        for test, question in enumerate(zip(*(one.tolist() for one in asked), strict=True))
    ]


def _walked(trees: Trees) -> _Layout:
    """For `walk.ll`: the tests and leaves of all trees, in one array."""
    arrays = trees.arrays
    forest = [(target, nodes) for target, own in enumerate(trees.by_target) for nodes in own]
    ends = np.cumsum([len(nodes) for _, nodes in forest])
    nodes = [node for _, own in forest for node in own]
    numbers = np.array([node.number for node in nodes])
    is_leaf = np.array([node.is_leaf for node in nodes])
    roots = ends - [len(own) for _, own in forest]
    # Of nodes from the root down, those two that a test leads to are beside each other.
    below = np.arange(len(nodes))
    tests_before = np.cumsum(~is_leaf) - ~is_leaf
    root_of = np.repeat(roots, np.diff(ends, prepend=0))
    below[~is_leaf] = (root_of + 1 + 2 * (tests_before - tests_before[root_of]))[~is_leaf]
    tests = numbers[~is_leaf]
    thresholds = _thresholds(trees)
    made = np.zeros(len(nodes), [("test", np.uint64), ("threshold", thresholds.dtype)])
    made["test"] = below.astype(np.uint64) << np.uint64(32)
    made["test"][~is_leaf] |= arrays["feature"][tests].astype(np.uint64) << np.uint64(1)
    made["test"][~is_leaf] |= (arrays["missing"][tests] != 0).astype(np.uint64)
    made["test"][is_leaf] |= np.uint64(1)
    made["threshold"] = np.inf
    made["threshold"][~is_leaf] = thresholds[tests]
    weights = np.zeros(len(nodes))
    weights[is_leaf] = arrays["weight"][numbers[is_leaf]]
    return _layout(
        "walk.ll",
        "uint32",
        8 * _LANES,
        [trees.columns, len(forest), len(trees.by_target)],
        [
            roots.astype(np.int64),
            made,
            weights,
            np.array([target for target, _ in forest], np.int64),
        ],
    )


def _thresholds(trees: Trees) -> NDArray[Any]:
    """In the type of the features, or in doubles where only those decide as they should."""
    if "double_threshold" in trees.arrays:
        return trees.arrays["double_threshold"].astype(np.float64)
    return trees.arrays["threshold"].astype(np.float32 if trees.are_floats else np.float64)


def _cut(nodes: Sequence[Node]) -> list[Sequence[Node]] | None:
    """The tree, or trees of 64 leaves at most that add up to it; None where it is too large.

    Each leaf is in one of them. Rows that go elsewhere come to a leaf that adds nothing there.
    """
    below = _below(nodes)
    leaves = [1] * len(nodes)
    for place in reversed(range(len(nodes))):
        if not nodes[place].is_leaf:
            leaves[place] = sum(leaves[child] for child in below[place])
    if leaves[0] <= _BITS:
        return [nodes]
    if leaves[0] > MAX_LEAVES:
        return None
    pieces: list[Sequence[Node]] = []
    tests = 0
    whole: list[tuple[int, list[tuple[int, bool]]]] = [(0, [])]
    while whole:
        place, way = whole.pop()
        if leaves[place] <= _BITS - len(way):
            pieces.append(_piece(nodes, below, place, way))
            tests += leaves[place] - 1 + len(way)
        if len(way) >= _BITS or tests > _MOST_REPEATED * leaves[0]:
            return None
        if leaves[place] > _BITS - len(way):
            holds, fails = below[place]
            test = nodes[place].number
            whole += [(fails, [*way, (test, False)]), (holds, [*way, (test, True)])]
    return pieces


def _below(nodes: Sequence[Node]) -> list[list[int]]:
    """By node: where the one is to which it leads if its test holds, and the other."""
    below = [[-1, -1] for _ in nodes]
    for place, node in enumerate(nodes):
        if node.parent >= 0:
            below[node.parent][0 if node.holds else 1] = place
    return below


def _piece(
    nodes: Sequence[Node], below: list[list[int]], top: int, way: list[tuple[int, bool]]
) -> list[Node]:
    """What is below a node, behind the tests on the way to it and their outcomes."""
    made: list[Node] = []
    parent, holds = -1, False
    for test, outcome in way:
        made.append(Node(test, False, parent, holds))
        parent, holds = len(made) - 1, outcome
        made.append(Node(_ELSEWHERE, True, parent, not outcome))
    open_nodes = [(top, parent, holds)]
    while open_nodes:
        place, parent, holds = open_nodes.pop()
        made.append(Node(nodes[place].number, nodes[place].is_leaf, parent, holds))
        if not nodes[place].is_leaf:
            own = len(made) - 1
            open_nodes += [(below[place][0], own, True), (below[place][1], own, False)]
    return made


def _numbered(nodes: Sequence[Node]) -> _Tree:
    """The tree with its leaves in order: those where a test holds before those where it fails."""
    below = _below(nodes)
    tree = _Tree([], [], [])
    first_leaf: dict[int, int] = {}
    open_places = [0]
    while open_places:
        place = open_places.pop()
        if place < 0:  # what is below this node where its test holds has been numbered
            place = ~place
            before = (1 << first_leaf[place]) - 1
            crossed_out = ((1 << len(tree.leaves)) - 1) & ~before
            tree.tests.append(nodes[place].number)
            tree.masks.append(~crossed_out)
        elif nodes[place].is_leaf:
            tree.leaves.append(nodes[place].number)
        else:
            first_leaf[place] = len(tree.leaves)
            holds, fails = below[place]
            open_places += [fails, ~place, holds]
    return tree


# -- machine code --

_TYPES = {"float32": "float", "float64": "double", "uint32": "i32", "uint64": "i64"}


@cache
def _machine_code(file: str, feature: str, mask: str) -> AddUp:
    """`add_up` for features and masks of these types of NumPy, made once per process."""
    with making:
        return _made(file, feature, mask)


def _made(file: str, feature: str, mask: str) -> AddUp:
    template = resources.files("bascule.bundle.programs").joinpath(file).read_text("utf-8")
    text = string.Template(template).substitute(T=_TYPES[feature], M=_TYPES[mask], LANES=_LANES)
    address = ctypes.c_void_p
    made: AddUp = machine_code(text, "add_up", (address, address, ctypes.c_int64, address, address))
    return made


def machine_code(text: str, function: str, parameters: Sequence[Any]) -> Any:
    """A function of LLVM's language, compiled for this processor; `parameters` are of `ctypes`.

    The text has to be ours: it may do anything. Not from two threads at once.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    module = llvm.parse_assembly(text)
    module.verify()
    compiler = llvm.create_mcjit_compiler(module, machine)
    compiler.finalize_object()
    made: Any = ctypes.CFUNCTYPE(None, *parameters)(compiler.get_function_address(function))
    made.compiler = compiler  # whose memory the code is in
    _give_back_pages_of("libllvmlite")
    return made


def _give_back_pages_of(library: str) -> None:
    """Let go of the code of a library that has done its work: 46 MB of LLVM's.

    It is the file's, and comes back by itself where it is called again.
    """
    with suppress(OSError, AttributeError):
        own = ctypes.CDLL(None)
        with open("/proc/self/maps", encoding="utf-8") as maps:
            for line in maps:
                # Code that may be written, or was, is none of the file's.
                if library in line and " r-xp " in line:
                    begin, end = (int(said, 16) for said in line.split()[0].split("-"))
                    size = ctypes.c_size_t(end - begin)
                    own.madvise(ctypes.c_void_p(begin), size, mmap.MADV_DONTNEED)


@cache
def _may_run_what_it_wrote() -> bool:
    """Whether memory that was written may be run: LLVM ends the process where it may not."""
    own = ctypes.CDLL(None, use_errno=True)
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    view = (ctypes.c_char * mmap.PAGESIZE).from_buffer(page)
    try:
        address = ctypes.c_void_p(ctypes.addressof(view))
        refused: int = own.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
    finally:
        del view
        page.close()
    return refused == 0
