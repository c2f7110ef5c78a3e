"""An endpoint follows an alias: its moves deploy, once each, whatever dies meanwhile."""

import json

import pytest
from tests.scenarios.commands import run
from tests.waiting import until

pytestmark = pytest.mark.slow

STEPS = ("--strategy", "canary", "--steps", "50,100", "--step-for", "1h", "-g", "errors +2 pp")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three versions of iris with the same fields, and a fourth with others."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    import bascule

    folder = tmp_path_factory.mktemp("following")
    X, y = load_iris(return_X_y=True)
    made = []
    for n, columns in enumerate((4, 4, 4, 3)):
        model = LogisticRegression(C=1 / (n + 1), max_iter=1_000).fit(X[:, :columns], y)
        made.append(
            bascule.pack(
                model, name="iris", train=X[:, :columns], to=folder / str(n), measure=False,
                baseline=False,
            ).path
        )  # fmt: skip
    return made


@pytest.fixture
def registry(home):
    from bascule.registry import open_registry

    registry = open_registry(home)
    registry.set_alias("iris", "champion", 1, by="ada")
    return registry


@pytest.fixture
def server(serve, home, registry):
    return serve("iris/1", env={"BASCULE_HOME": str(home)})


@pytest.fixture
def command(home, server):
    def beside(*words, code=0):
        port = str(server.control_port)
        found, out, errors = run(home, *words, "--json", BASCULE_SERVING__CONTROL_PORT=port)
        assert found == code, out + errors
        return json.loads(out)

    return beside


@pytest.fixture
def book(home):
    from bascule.app import open_rollouts
    from bascule.settings import load_settings

    return open_rollouts(load_settings(environ={"BASCULE_HOME": str(home)}))


def test_a_move_rolls_out_and_a_move_back_aborts_and_each_is_done_once(command, registry, book):
    command("deploy", "iris/1", "--follow", "iris@champion", *STEPS)
    assert book.rollouts() == [], "the first version has nothing to be compared with"

    registry.set_alias("iris", "champion", 2, by="eve", reason="retrained")
    (found,) = until(book.rollouts)
    assert (found.rollout.candidate, found.rollout.strategy) == ("iris/2", "canary")
    assert found.rollout.steps_percent == (50, 100), "as the endpoint was given"
    assert (found.created_by, found.reason) == (
        "eve", "iris@champion was moved to iris/2: retrained",
    )  # fmt: skip
    until(lambda: book.get("iris").latest)

    registry.set_alias("iris", "champion", 1, by="eve")
    until(lambda: book.get("iris").ended_at)
    assert book.get("iris").latest.sentence == "aborted by eve: iris@champion was moved to iris/1"
    registry.set_alias("iris", "champion", 4, by="eve")
    until(lambda: [own for own in book.endpoints.history("iris") if own.kind == "followed"])
    assert len(book.rollouts()) == 1, "later turns have begun nothing"


def test_a_refused_move_is_in_the_history_once_and_another_version_replaces_a_rollout(
    command, registry, book
):
    command("deploy", "iris/1", "--follow", "iris@champion", *STEPS)
    registry.set_alias("iris", "champion", 4, by="eve")

    def followed():
        return [one for one in book.endpoints.history("iris") if one.kind == "followed"]

    (refused,) = until(followed)
    assert "iris@champion was moved to iris/4, and that was refused" in refused.sentence
    assert "other inputs" in refused.sentence

    registry.set_alias("iris", "champion", 2, by="eve")
    until(lambda: book.rollouts() and book.get("iris").latest)
    registry.set_alias("iris", "champion", 3, by="eve")
    until(lambda: len(book.rollouts()) == 2 and book.get("iris").latest)
    assert [one.rollout.candidate for one in book.rollouts()] == ["iris/2", "iris/3"]
    assert len(followed()) == 1

    refused = command("endpoints", "delete", "iris", "--reason=x", code=4)
    assert "rollout under way" in refused["error"]
    command("rollout", "abort", "iris")
    command("deploy", "iris/1", "--follow", "none", "--strategy", "all")
    command("deploy", "iris/1", "--to", "beside", "--follow", "iris@champion", "--strategy", "all")
    registry.set_alias("iris", "champion", 2, by="eve")
    until(lambda: book.endpoints.endpoint("beside").current.plan.current.version == "iris/2")
    assert len(book.rollouts()) == 2, "the endpoint follows no alias any more"
