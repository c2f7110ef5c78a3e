"""lm-eval over a real language model: in a gate, and by its own command over a server."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tests.harness_tasks import packages, write_task
from tests.language_models import log_probabilities

from bascule.bundle import load
from bascule.release import check
from bascule.release.harness import run_task
from bascule.release.texts import scores_of

PAGE = Path(__file__).parents[2] / "docs/how-to/judge-answers.md"
CAPITALS = ["France/Paris", "Italy/Rome", "Spain/Madrid", "Japan/Tokyo", "Egypt/Cairo"]
SENTENCE = "'^The capital of [A-Za-z]+ is ', '[.].*$'"
PRODUCTS = [
    {"question": f"{a} * {b} =", "choices": [str(a * b), str(a * b + 1), "10"], "label": 0}
    for a in range(3, 7)
    for b in range(7, 10)
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("lm_eval"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def bundle(chat):
    return load(chat)


@pytest.fixture(scope="module")
def bare(smollm2):
    return llama_cpp.Llama(
        str(smollm2), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )


def checked(bundle, *criteria):
    at = datetime(2026, 11, 30, tzinfo=UTC)
    return check(bundle, criteria, now=at, by="me", record=lambda _: None).results


def test_multiple_choice_is_decided_by_llama_cpps_own_log_probabilities(bundle, bare, tmp_path):
    task = write_task(
        tmp_path, "products", PRODUCTS, "acc", output_type="multiple_choice",
        doc_to_text="{{question}}", doc_to_target="{{label}}", doc_to_choice="{{choices}}",
    )  # fmt: skip
    _, results = run_task(bundle, task)
    right = []
    for sample in results["samples"]["products"]:
        sums = []
        answers = zip(sample["arguments"], sample["resps"], strict=True)
        for (context, text), ((logprob, is_greedy),) in answers:
            first = len(bare.tokenize(context.encode(), add_bos=True, special=True))
            tokens = bare.tokenize((context + text).encode(), add_bos=True, special=True)
            each, likeliest = log_probabilities(bare, tokens)
            sums.append(each[first - 1 :].sum())
            assert logprob == pytest.approx(sums[-1], abs=0.05)
            assert is_greedy == likeliest[first - 1 :].all()
        right.append(int(np.argmax(sums) == 0))
    assert 0 < np.mean(right) < 1
    (result,) = checked(bundle, f"lm_eval[{task}/acc] >= 0.001")
    assert f" of {np.mean(right):.4g} on 12 samples" in result.reason


def test_a_perplexity_is_that_of_all_samples_and_passes_on_one_side_alone(bundle, tmp_path):
    docs = [{"text": f"River {n} flows to the sea, and the sea is wide."} for n in range(24)]
    task = write_task(
        tmp_path, "rivers", docs, output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}",
    )  # fmt: skip
    total = run_task(bundle, task)[1]["results"]["rivers"]["word_perplexity,none"]
    texts = [doc["text"] for doc in docs]
    words = sum(len(text.split()) for text in texts)
    assert total == pytest.approx(np.exp(-scores_of(bundle, texts)["logprob"].sum() / words))
    above, below, unknown = checked(
        bundle, f"lm_eval[{task}/word_perplexity] <= {total * 1.2}",
        f"lm_eval[{task}/word_perplexity] <= {total * 1.001}", f"lm_eval[{task}/acc] >= 0.1",
    )  # fmt: skip
    assert (above.passed, below.passed) == (True, False)
    assert f"of {total:.4g} on 24 samples; lm-eval 0.4.13" in above.reason
    assert "has no metric acc: name one of word_perplexity,none" in unknown.reason


def test_lm_eval_over_a_server_measures_what_a_gate_over_the_bundle_does(
    serve, chat, bundle, tmp_path, monkeypatch
):
    """By the task and the command of the documentation; the model answers in a sentence."""
    monkeypatch.chdir(tmp_path)
    page, evals = PAGE.read_text(), tmp_path / "evals"
    task = re.search(r"```yaml\n(task: capitals\n.*?)```", page, re.DOTALL)[1]
    sentence = f"metric: exact_match, regexes_to_ignore: [{SENTENCE}]"
    evals.mkdir()
    (evals / "capitals.yaml").write_text(task.replace("metric: exact_match", sentence))
    lines = [dict(zip(("country", "capital"), pair.split("/"), strict=True)) for pair in CAPITALS]
    (evals / "capitals.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    server = serve(chat, env={"BASCULE_HOME": str(tmp_path / "home")})
    command = re.search(r"^lm_eval --model .*?```", page, re.DOTALL | re.MULTILINE)[0]
    command = command.removesuffix("```").replace("\\\n", "").replace("8080", str(server.port))
    words = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--output_path", "out"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(packages()), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.glob("out/**/results_*.json")
    share = json.loads(file.read_text())["results"]["capitals"]["exact_match,none"]
    assert share >= 0.4
    (result,) = checked(bundle, "lm_eval[evals/capitals/exact_match chat] >= 0.9")
    assert f" of {share:.4g} on 5 samples" in result.reason
