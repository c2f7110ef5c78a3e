"""Gates by tasks of the real lm-eval, over models whose right answers are known."""

from __future__ import annotations

import math
import random
import shutil
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.chat_models import chat_bundle
from tests.harness_tasks import write_task

from bascule.core import Invalid
from bascule.release import Criterion, check

NOW = datetime(2026, 11, 30, tzinfo=UTC)
COUNTRIES = [{"question": f"capital {n}?", "answer": f"answer {n}"} for n in range(40)]
RIGHT = {f"capital {n}?": f"answer {n}" for n in range(40)}
GENERATED = {
    "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
}  # fmt: skip
CHOICES = {
    "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "{{label}}",
    "doc_to_choice": "{{choices}}",
}  # fmt: skip

pytestmark = [
    pytest.mark.usefixtures("lm_eval"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    worse = RIGHT | {f"capital {n}?": "wrong" for n in range(30, 40)}
    return {
        "champion": chat_bundle(folder / "champion", "chat", RIGHT),
        "worse": chat_bundle(folder / "worse", "chat", worse),
    }


@pytest.fixture(scope="module")
def evals(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks") / "evals"


@pytest.fixture(scope="module")
def capitals(evals):
    return write_task(evals, "capitals", COUNTRIES, "exact_match", **GENERATED)


def checked(bundles, name, *criteria):
    report = check(
        bundles[name], criteria, now=NOW, by="me", find=bundles.get, record=lambda _: None
    )
    return report.results


def test_the_end_of_the_interval_is_judged_and_not_the_mean(bundles, capitals):
    criteria = (
        f"lm_eval[{capitals}/exact_match] >= 0.61", f"lm_eval[{capitals}/exact_match] >= 0.62",
        f"lm_eval[{capitals}/exact_match] <= 0.86", f"lm_eval[{capitals}/exact_match] <= 0.85",
    )  # fmt: skip
    results = checked(bundles, "worse", *criteria)
    # Clopper and Pearson's interval of 30 in 40 at 90 %, by scipy's quantiles of the beta law.
    assert [result.passed for result in results] == [True, False, True, False]
    assert [result.value for result in results] == pytest.approx(
        [0.6129, 0.6129, 0.8576, 0.8576], abs=1e-4
    )
    (reason,) = {result.reason.partition("; ")[2] for result in results[:1]}
    assert "the lower end of the 90% interval [0.6129, 0.8576] of 0.75 on 40 samples" in reason
    error = math.sqrt(0.75 * 0.25 / 39)
    assert f"standard error {error:.3g}; lm-eval 0.4.13, capitals of version 2.0, 0-shot" in reason
    assert "samples sha256:" in reason


def test_the_random_numbers_of_the_caller_go_on_as_they_would(bundles, capitals):
    draws = []
    for measures in (False, True):
        random.seed(1)
        np.random.seed(1)
        if measures:
            checked(bundles, "champion", f"lm_eval[{capitals}/exact_match] >= 0.9")
        draws.append((random.random(), np.random.random()))
    assert draws[0] == draws[1]


def test_a_version_is_compared_with_the_champion_on_the_same_samples(bundles, capitals):
    (worse,) = checked(bundles, "worse", f"lm_eval[{capitals}/exact_match] >= champion - 0.2")
    assert not worse.passed
    assert "lm_eval 0.75, and 1 of champion, on the same 40 requests" in worse.reason
    assert "Tango" in worse.reason
    wide = f"lm_eval[{capitals}/exact_match] >= champion - 0.5"
    assert checked(bundles, "worse", wide)[0].passed


def test_the_same_data_have_the_same_digest_and_changed_data_another(bundles, tmp_path):
    def digest(docs):
        task = write_task(tmp_path / "evals", "capitals", docs, "exact_match", **GENERATED)
        (result,) = checked(bundles, "champion", f"lm_eval[{task}/exact_match] >= 0.5")
        return result.reason.partition("samples sha256:")[2]

    assert digest(COUNTRIES[:30]) == digest(COUNTRIES[:30])
    assert digest(COUNTRIES[:30]) != digest(COUNTRIES[1:31])


def test_chat_asks_by_messages_and_else_the_text_is_continued(tmp_path):
    said = {'"messages": [{"role": "user", "content": "how?"}]': "chat", '"prompt": "how?"': "text"}
    bundle = chat_bundle(tmp_path / "model", "chat", said)
    docs = [{"question": "how?", "answer": "chat"}] * 30
    task = write_task(tmp_path / "evals", "how", docs, "exact_match", **GENERATED)
    chat, plain = checked(
        {"it": bundle}, "it", f"lm_eval[{task}/exact_match chat] >= 0.9",
        f"lm_eval[{task}/exact_match] >= 0.9",
    )  # fmt: skip
    assert (chat.passed, plain.passed, plain.value) == (True, False, 0.0)


def test_the_settings_of_a_task_reach_the_model(tmp_path):
    said = {'"temperature": 0.5, "max_tokens": 3, "stop": ["END"]': "right"}
    bundle = chat_bundle(tmp_path / "model", "chat", said)
    settings = {"do_sample": True, "temperature": 0.5, "until": ["END"], "max_gen_toks": 3}
    fields = GENERATED | {"generation_kwargs": settings}
    docs = [{"question": "how?", "answer": "right"}] * 30
    task = write_task(tmp_path / "evals", "how", docs, "exact_match", **fields)
    assert checked({"it": bundle}, "it", f"lm_eval[{task}/exact_match] >= 0.9")[0].passed


@pytest.mark.parametrize(
    ("inside", "part"),
    [
        ("no/such/capitals/acc", "there is no folder no/such: name one with YAML files"),
        ("{evals}/capital/acc", "there is no task capital in {evals}: the nearest are capitals"),
        ("{capitals}/bleu", "has no metric bleu: name one of exact_match,none"),
        ("{choices}/acc", "does not tell the log probabilities of a text: measure what it"),
    ],
)
def test_what_cannot_be_measured_says_what_to_do(bundles, evals, capitals, inside, part):
    docs = [{"question": "1 + 1 =", "choices": ["2", "3"], "label": 0}]
    places = {
        "evals": evals,
        "capitals": capitals,
        "choices": write_task(evals, "sums", docs, "acc", **CHOICES),
    }
    (result,) = checked(bundles, "champion", f"lm_eval[{inside.format(**places)}] >= 0.4")
    assert (result.passed, result.value) == (False, None)
    assert part.format(**places) in result.reason


def test_one_of_several_filters_is_chosen_by_its_name(bundles, evals):
    filters = [
        {"name": "whole", "filter": [{"function": "take_first"}]},
        {"name": "digits", "filter": [
            {"function": "regex", "regex_pattern": "([0-9]+)"}, {"function": "take_first"},
        ]},
    ]  # fmt: skip
    task = write_task(evals, "two", COUNTRIES, "exact_match", filter_list=filters, **GENERATED)
    either, whole, digits = checked(
        bundles, "champion", f"lm_eval[{task}/exact_match] >= 0.9",
        f"lm_eval[{task}/exact_match,whole] >= 0.9", f"lm_eval[{task}/exact_match,digits] >= 0.9",
    )  # fmt: skip
    assert "name one of exact_match,whole, exact_match,digits" in either.reason
    assert (whole.passed, digits.passed) == (True, False)


def test_an_error_is_compared_with_a_limit_alone(bundles, evals):
    metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": False}]
    task = write_task(evals, "errors", COUNTRIES, metric_list=metrics, **GENERATED)
    (compared,) = checked(bundles, "worse", f"lm_eval[{task}/exact_match] >= champion - 0.5")
    assert "exact_match: less is better: compare it with a limit" in compared.reason


def test_a_task_of_the_users_own_may_run_its_own_python(bundles, evals, tmp_path):
    write_task(evals, "shouted", COUNTRIES, "exact_match", **GENERATED)
    (evals / "shouting.py").write_text("def quiet(doc):\n    return doc['question'].lower()\n")
    file = evals / "shouted.yaml"
    file.write_text(file.read_text().replace("'{{question}}'", "!function shouting.quiet"))
    assert checked(bundles, "champion", f"lm_eval[{evals}/shouted/exact_match] >= 0.9")[0].passed


def test_without_lm_eval_the_reason_says_how_to_install_it(bundles, capitals, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    (result,) = checked(bundles, "champion", f"lm_eval[{capitals}/exact_match] >= 0.4")
    assert "lm_eval is not installed: pip install 'bascule[lm-eval]'" in result.reason


def test_a_task_inside_a_bundle_is_refused_and_its_code_does_not_run(bundles, tmp_path):
    shutil.copytree(bundles["worse"].path, tmp_path / "bundle")
    tasks = tmp_path / "bundle" / "evals"
    tasks.mkdir()
    (tasks / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(doc): ...\n")
    (tasks / "evil.yaml").write_text("task: evil\ndoc_to_text: !function evil.run\n")
    for folder in (tasks, tmp_path):
        (result,) = checked(bundles, "champion", f"lm_eval[{folder}/evil/acc] >= 0.4")
        assert "evil.yaml is in a bundle: name a folder of your own tasks" in result.reason
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["lm_eval >= 0.4", "lm_eval[arc_easy] >= 0.4", "lm_eval[/acc] >= 1"]
)
def test_a_criterion_without_a_task_or_a_metric_is_a_mistake(text):
    with pytest.raises(Invalid, match="lm_eval needs a name") as problem:
        Criterion.parse(text)
    assert "lm_eval[TASK/METRIC] >= 0.4" in problem.value.hint
