"""What settings say of usage: projects and prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le, MinLen

_Price = Annotated[float, Ge(0), Le(1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What usage costs. Without a price there is no cost.

    Attributes:
        currency: The unit of the prices.
        price_per_server_hour: Of 3,600 s from the last byte of requests to their answers.
        price_per_1000_rows: Of answered rows, by the name of the model; `*` is of all others.
    """

    currency: Annotated[str, MinLen(1)] = "EUR"
    price_per_server_hour: _Price = 0.0
    price_per_1000_rows: Mapping[str, _Price] = field(default_factory=dict)

    @property
    def are_set(self) -> bool:
        return bool(self.price_per_server_hour or any(self.price_per_1000_rows.values()))

    def cost(self, model: str, rows: int, server_s: float) -> float:
        """In the currency."""
        by_model = self.price_per_1000_rows
        per_1000 = by_model.get(model, by_model.get("*", 0.0))
        return rows / 1_000 * per_1000 + server_s / 3_600 * self.price_per_server_hour


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of usage.

    Attributes:
        projects: The names and prefixes (`fraud-*`) of the models of each project.
        prices: What usage costs.
        unknown: Why usage is not recorded now; empty if it is.
    """

    projects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)
    unknown: str = ""
