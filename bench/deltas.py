"""What differences between real versions of models take: `python -m bench.deltas FILE.csv`.

Each model is trained, packed, updated as people update models, and packed again. The archives of
the two bundles are compared by Bascule's difference, bsdiff4, `zstd --patch-from` and, where
`--detools` names a Python that has it, detools; and with the full file as zstd -19 makes it.
"""

from __future__ import annotations

import argparse
import copy
import csv
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bsdiff4
import numpy as np
import torch
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor
from torch import nn

import bascule
from bascule.edge import Archive, compress, difference, pack

ROWS, COLUMNS, WORDS = 20_000, 20, 4_000


def rows(seed: int, drift: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(drift, size=(ROWS, COLUMNS)).astype(np.float32)
    y = X[:, 0] * X[:, 1] + np.sin(X[:, 2]) + 0.3 * X[:, 3:8].sum(axis=1)
    return X, y + rng.normal(scale=0.3, size=ROWS).astype(np.float32)


def trees() -> Iterator[tuple[str, Any, Any, Any]]:
    """An update, the model before and after it, and rows of both."""
    X, y = rows(0)
    more, truth = rows(1)
    booster = xgboost.XGBRegressor(n_estimators=300, max_depth=6, n_jobs=1)
    first = copy.deepcopy(booster).fit(X, y)
    added = xgboost.XGBRegressor(n_estimators=60, max_depth=6, n_jobs=1)
    yield (
        "XGBoost, 60 trees added to 300", first,
        added.fit(more, truth, xgb_model=first.get_booster()), X,
    )  # fmt: skip
    yield "XGBoost, 300 trees, retrained", first, booster.fit(more, truth), X
    forest = GradientBoostingRegressor(
        n_estimators=150, max_depth=5, random_state=0, warm_start=True
    )
    before = copy.deepcopy(forest.fit(X[:5_000], y[:5_000]))
    yield (
        "scikit-learn, 30 trees added to 150", before,
        forest.set_params(n_estimators=180).fit(more[:5_000], truth[:5_000]), X,
    )  # fmt: skip


class Network(nn.Module):
    """A body of a million weights, and a head."""

    def __init__(self) -> None:
        super().__init__()
        wide = [nn.Linear(512, 512), nn.ReLU()]
        self.body = nn.Sequential(nn.Linear(COLUMNS, 512), nn.ReLU(), *wide, *copy.deepcopy(wide))
        self.head = nn.Linear(512, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.body(x))
        return answer


class Words(nn.Module):
    """Vectors of words, of which an update moves a few."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(WORDS, 128)
        self.head = nn.Linear(128, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.vectors(x.long().clamp(0, WORDS - 1)[:, 0]))
        return answer


def trained(network: nn.Module, X: Any, y: Any, rate: float, steps: int, part: Any = None) -> Any:
    """A copy after steps of Adam."""
    network = copy.deepcopy(network)
    chosen = getattr(network, part) if part else network
    optimizer = torch.optim.Adam(chosen.parameters(), rate)
    for _ in range(steps):
        batch = torch.randint(0, len(X), (256,))
        loss = ((network(torch.tensor(X)[batch])[:, 0] - torch.tensor(y)[batch]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def networks() -> Iterator[tuple[str, Any, Any, Any]]:
    torch.manual_seed(0)
    X, y = rows(0)
    more, truth = rows(1, drift=0.2)
    first = trained(Network(), X, y, 1e-3, 1_500)
    yield "network, head trained", first, trained(first, more, truth, 1e-3, 300, "head"), X
    yield "network, fine-tuned at 1e-5", first, trained(first, more, truth, 1e-5, 300), X
    yield "network, fine-tuned at 1e-4", first, trained(first, more, truth, 1e-4, 300), X
    words = np.abs(X) * 1_000
    before = trained(Words(), words, y, 1e-3, 100)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.vectors.weight[: WORDS // 20] += 0.01 * torch.randn(WORDS // 20, 128)
    yield "embedding, 5 % of its vectors moved", before, after, words


def sizes(archives: Sequence[Archive], folder: Path, detools: str) -> dict[str, Any]:
    """Bytes that a device receives, by the way."""
    old, new = archives
    compress(new, folder / "full")
    method = difference(old, new, folder / "ours")
    bsdiff4.file_diff(str(old.path), str(new.path), str(folder / "bsdiff4"))
    subprocess.run(
        ["zstd", "-q", "-f", "-19", "--long=31", f"--patch-from={old.path}", str(new.path),
         "-o", str(folder / "zstd --patch-from")],
        check=True,
    )  # fmt: skip
    if detools:
        program = "import sys, detools; detools.create_patch_filenames(*sys.argv[1:])"
        files = (old.path, new.path, folder / "detools")
        subprocess.run([detools, "-c", program, *map(str, files)], check=True)
    ways = ("ours", "bsdiff4", "detools", "zstd --patch-from", "full")
    found = {way: (folder / way).stat().st_size for way in ways if (folder / way).exists()}
    found["ours"] = min(found["ours"], found["full"])
    best = min(size for way, size in found.items() if way != "ours")
    shown = {way: f"{size:,}" for way, size in found.items()}
    return {"archive": f"{new.size_bytes:,}", **shown, "method": method,
            "ours / best other": f"{found['ours'] / best:.2f}"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--detools", default="", help="A Python that has detools.")
    given = parser.parse_args()
    table = []
    for update, *models, X in (*trees(), *networks()):
        with TemporaryDirectory() as place:
            folder, archives = Path(place), []
            for number, model in enumerate(models):
                bundle = bascule.pack(model, name="m", train=X[:500], to=folder / f"b{number}")
                archives.append(pack(Path(bundle.path), folder / f"{number}.tar"))
                shutil.rmtree(bundle.path)
            table.append({"update": update, **sizes(archives, folder, given.detools)})
            print(table[-1], flush=True)
    with given.file.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
