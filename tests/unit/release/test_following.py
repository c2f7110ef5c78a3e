"""Moves of a followed alias, one act at a time; and what a deployment takes from the settings."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from bascule.app import open_catalogue, open_registry, open_rollouts
from bascule.catalogue import Leases
from bascule.core import Conflict, Invalid
from bascule.endpoints import Deployed
from bascule.release.rollouts import AliasFollower, Begun, RolloutRequest
from bascule.settings import load_settings


@pytest.fixture(scope="module")
def bundles(packed):
    X = np.arange(20.0).reshape(10, 2)
    return [
        packed("rain", LinearRegression(fit_intercept=fit).fit(X, X[:, 0] * scale), X)
        for fit, scale in ((True, 1), (False, 1), (True, 2))
    ]


@pytest.fixture
def settings(bundles, tmp_path):
    def made(text=""):
        (tmp_path / "bascule.toml").write_text(text)
        return load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})

    registry = open_registry(made())
    for path in bundles:
        registry.push(path, by="ada")
    registry.set_alias("rain", "best", 1, by="ada")
    return made


@pytest.fixture
def world(settings):
    """Registry, rollouts and leases; `rain` follows `rain@best` by a canary."""
    chosen = settings()
    rollouts = open_rollouts(chosen)
    asked = RolloutRequest(
        version="rain/1", follow="rain@best", strategy="canary", guards=("errors +2 pp",)
    )
    assert isinstance(rollouts.deploy(asked, by="ada"), Deployed)
    return open_registry(chosen), rollouts, Leases(open_catalogue(chosen))


def test_a_move_is_acted_on_once_and_only_by_the_holder_of_the_lease(world):
    registry, rollouts, leases = world
    follower = AliasFollower(rollouts)
    assert follower.moves() == {}, "the endpoint has what the alias pointed to"
    registry.set_alias("rain", "best", 2, by="eve")
    (move,) = follower.moves().values()
    lost = leases.acquire("rollouts", "one", 60.0)
    leases.release(lost)
    held = leases.acquire("rollouts", "two", 60.0)

    with pytest.raises(Conflict):
        follower.act("rain", move, lost)
    assert (rollouts.rollouts(), len(follower.moves())) == ([], 1)
    follower.act("rain", move, held)
    assert [one.rollout.candidate for one in rollouts.rollouts()] == ["rain/2"]
    assert follower.moves() == {}
    rollouts.command("rain", "abort", by="ada", reason="")
    with pytest.raises(Conflict, match="acted on before"):
        follower.act("rain", move, held)
    assert len(rollouts.rollouts()) == 1


def test_a_controller_that_dies_between_the_end_of_a_rollout_and_the_next_is_continued(world):
    registry, rollouts, leases = world
    lease = leases.acquire("rollouts", "one", 60.0)
    for number in (2, 3):
        registry.set_alias("rain", "best", number, by="eve")
        follower = AliasFollower(rollouts)
        follower.act("rain", follower.moves()["rain"], lease)
    # The rollout of rain/2 is aborted, and nothing has begun: here the first controller dies.
    assert [one.ended_at is None for one in rollouts.rollouts()] == [False]
    other = AliasFollower(rollouts)
    other.act("rain", other.moves()["rain"], lease)
    assert [one.rollout.candidate for one in rollouts.rollouts()] == ["rain/2", "rain/3"]
    assert other.moves() == {}


def test_an_alias_that_is_dropped_changes_nothing_and_is_in_the_history(world):
    registry, rollouts, leases = world
    registry.drop_alias("rain", "best", by="eve", reason="cleaning")
    follower = AliasFollower(rollouts)
    follower.act("rain", follower.moves()["rain"], leases.acquire("rollouts", "one", 60.0))
    said = rollouts.endpoints.history("rain")[-1]
    assert (said.kind, said.by, said.reason) == ("followed", "eve", "cleaning")
    assert said.sentence == "rain@best was dropped: endpoint rain goes on with plan 1"


TOML = """
[rollouts]
strategy = "canary"
steps_percent = [10, 100]
guards = ["errors +3 pp"]
alpha = 0.01
"""


def test_a_deployment_takes_from_the_settings_what_it_does_not_say_and_tells_which(settings):
    rollouts = open_rollouts(settings(TOML))

    def dry(**said):
        made = rollouts.deploy(RolloutRequest(version="rain/2", **said), by="ada", dry_run=True)
        assert isinstance(made, Begun)
        return made

    first = rollouts.deploy(RolloutRequest(version="rain/1"), by="ada")
    assert isinstance(first, Deployed), "the first version has nothing to be compared with"
    made = dry()
    assert made.from_settings == ("alpha", "guards", "steps_percent", "strategy")
    rollout = made.rollout
    assert (rollout.strategy, rollout.alpha, rollout.steps_percent) == ("canary", 0.01, (10, 100))
    assert [str(guard) for guard in rollout.guards] == ["errors +3 pp"]

    made = dry(strategy="shadow", alpha=0.02)
    assert made.from_settings == ()
    assert [guard.name for guard in made.rollout.guards] == ["errors", "disagreement"]
    assert made.rollout.alpha == 0.02
    plain = RolloutRequest(version="rain/2", strategy="all")
    assert isinstance(rollouts.deploy(plain, by="ada", dry_run=True), Deployed)

    rollouts.deploy(RolloutRequest(version="rain/2", follow="rain@best"), by="ada")
    assert rollouts.endpoints.history("rain")[-1].sentence == (
        "rollout of rain/2 (canary) was asked for; from the settings: alpha, guards, "
        "steps_percent, strategy"
    )
    (endpoint,) = rollouts.endpoints.endpoints()
    assert (endpoint.follows, dict(endpoint.following)) == ("rain@best", {}), "defaults of then"


def test_a_first_version_by_a_strategy_with_evidence_is_refused_unless_it_follows(settings):
    rollouts = open_rollouts(settings())
    with pytest.raises(Invalid, match="nothing is served as rain yet"):
        rollouts.deploy(RolloutRequest(version="rain/1", strategy="canary"), by="ada")
    with pytest.raises(Invalid, match="names no alias"):
        rollouts.deploy(RolloutRequest(version="rain/1", follow="rain"), by="ada")
    assert rollouts.endpoints.endpoints() == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('guards = ["errors +1 pp", "errors 1"]', r"rollouts\.guards.*'errors 1' is no guard"),
        ("steps_percent = [50, 25, 100]", r"rollouts\.steps_percent.*rise"),
        ("steps_percent = [5, 50]", r"rollouts\.steps_percent.*to 100"),
        ("alpha = 0.6", r"rollouts\.alpha"),
        ('strategy = "wild"', r"rollouts\.strategy"),
    ],
)
def test_a_default_that_no_rollout_could_use_is_refused_when_settings_are_read(
    tmp_path, line, said
):
    (tmp_path / "bascule.toml").write_text(f"[rollouts]\n{line}\n")
    with pytest.raises(Invalid, match=said):
        load_settings(tmp_path, {})
