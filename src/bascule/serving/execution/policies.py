"""Policies around the predictors of a model: a chain that settings or a plan name.

The first policy of the table is nearest to the model, the last is the first to see a call. A model
without policies is asked directly: nothing of this is in the path of its calls.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bascule.bundle.disk import generates_text
from bascule.core import Invalid, load_named
from bascule.serving.execution.predictors import Predictor

if TYPE_CHECKING:
    from bascule.serving.execution.meters import Meters

POLICIES: dict[str, str] = {
    "resilience": "bascule.serving.execution.resilient:Resilience",
    "outliers": "bascule.serving.execution.guarding_outliers:OutlierGuard",
    "answers": "bascule.serving.execution.coarsening:CoarseAnswers",
    "texts": "bascule.serving.execution.texts:Texts",
    "tokens": "bascule.serving.execution.token_limits:TokenLimits",
    "limits": "bascule.serving.execution.limiting:Limits",
}
"""The policies by name, each a `Policy`, in their order."""

OWN_SECTION = "resilience"
"""Its keys are written in `[serving.models.NAME]`; those of all others in `[policies.NAME]`."""

Chain = Mapping[str, Any]
"""The settings of the policies of one model, by the names of the policies."""


class CallerFacts(NamedTuple):
    """What policies may know of callers.

    Attributes:
        meters: What callers have used of their limits.
        shares_budgets: Whether a control process reserves budgets in the catalogue.
        name_of: The name of the key with an id.
        noise_key: A secret that is the same in all workers, and after a restart.
    """

    meters: Meters
    shares_budgets: bool = False
    name_of: Callable[[str], str] = str
    noise_key: bytes = b""


class PolicyFacts(NamedTuple):
    """What policies may use of a worker.

    Attributes:
        find: The served version of a reference, `MODEL` or `MODEL/VERSION`, without a policy.
        loop: The event loop.
        section: The name of the section that the settings are from: of the model or the endpoint.
        callers: What is known of callers; None in a process without the shared file.
    """

    find: Callable[[str], Predictor | None]
    loop: asyncio.AbstractEventLoop
    section: str = ""
    callers: CallerFacts | None = None


class Policy(Protocol):
    """What is done with each call of a model, beside answering it.

    Attributes:
        settings: A frozen dataclass that can be hashed; of a plan, its states are kept for as long
            as the settings are equal. Its fields are the keys of `[policies.NAME]` that the policy
            reads; `__post_init__` raises `ValueError` for a value that is not allowed.
    """

    settings: type[Any]

    @staticmethod
    def around(predictor: Predictor, settings: Any, facts: PolicyFacts) -> Predictor:
        """The predictor to ask in the place of `predictor`; `AroundPredictor` is a base for it."""

    @staticmethod
    def check(model: Predictor, settings: Any, find: Callable[[str], Predictor | None]) -> None:
        """Raise `Refused` where the settings do not fit the versions that are to be served."""


def policy_at(name: str) -> Policy:
    """The policy of that name; raises `Invalid`."""
    if name not in POLICIES:
        raise Invalid(f"there is no policy {name!r}", hint=f"policies are {', '.join(POLICIES)}")
    policy: Policy = load_named(POLICIES[name])
    return policy


def read_chain(values: Mapping[str, Mapping[str, Any]]) -> Chain:
    """The settings of policies from plain values.

    Raises:
        Invalid: There is no such policy, or a setting is unknown or of the wrong type.
    """
    import msgspec

    chain = {}
    for name, plain in values.items():
        policy = policy_at(name)
        try:
            chain[name] = msgspec.convert(dict(plain), policy.settings)
        except msgspec.ValidationError as problem:
            raise Invalid(f"{name}: {problem}", hint="see the settings of the policy") from None
    return chain


def values_of_keys(keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The keys of a section `[policies.NAME]` by the policy that declares them, for `read_chain`.

    Raises:
        Invalid: No policy declares a key; `facts["key"]` is that key.
    """
    declared = {
        field.name: name
        for name in POLICIES
        if name != OWN_SECTION
        for field in fields(policy_at(name).settings)
    }
    values: dict[str, dict[str, Any]] = {}
    for key, value in keys.items():
        if key not in declared:
            near = difflib.get_close_matches(key, declared, n=1, cutoff=0.6)
            raise Invalid(
                "there is no such setting" + (f"; did you mean {near[0]!r}?" if near else ""),
                hint=f"settings here are {', '.join(declared)}",
                key=key,
            )
        values.setdefault(declared[key], {})[key] = value
    return values


def around(predictor: Predictor, chain: Chain, facts: PolicyFacts) -> Predictor:
    """A predictor under the policies of a chain; itself where there are none.

    Models that generate text have the policy `texts`, which measures them.
    """
    if generates_text(predictor.signature):
        chain = {"texts": policy_at("texts").settings(), **chain}
    for name in POLICIES:
        if name in chain:
            predictor = policy_at(name).around(predictor, chain[name], facts)
    return predictor


def check_chain(model: Predictor, chain: Chain, find: Callable[[str], Predictor | None]) -> None:
    """Raise `Refused` where a policy of the chain does not fit what is to be served."""
    for name, settings in chain.items():
        policy_at(name).check(model, settings, find)
