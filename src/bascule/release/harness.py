"""Tasks of lm-eval, the Language Model Evaluation Harness, over a bundle's own program.

`lm_eval[TASK/METRIC]` is of a task that lm-eval brings, `lm_eval[FOLDER/TASK/METRIC]` of one in the
YAML files of a folder. `METRIC,FILTER` chooses among filters; ` chat` at the end asks through the
chat template. The files of tasks may run Python (`!function`): they are the user's own code.
"""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import MANIFEST
from bascule.core import (
    Invalid,
    Unconvertible,
    Untrusted,
    first_line,
    library,
    sha256_bytes,
)
from bascule.release.criteria import Criterion, NotWorse

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_CHAT = " chat"


@dataclass(frozen=True, slots=True)
class Values:
    """What was measured of each text, or sample of a task.

    Attributes:
        each: Shape (texts, ...).
        statistic: Of any of them.
        is_share: Whether each is 0 or 1, and the statistic their mean.
        reach: See `stats.bootstrap`.
        note: What else is to be said of them.
    """

    each: NDArray[Any]
    statistic: Callable[[NDArray[Any]], float] = np.mean
    is_share: bool = False
    reach: float | None = None
    note: str = ""


def run_task(bundle: Bundle, place: str, is_chat: bool = False) -> tuple[Any, Any]:
    """A task, `TASK` or `FOLDER/TASK`, and what lm-eval says of its answers.

    Raises:
        Invalid: There is no such folder or task, or it needs what the bundle does not have.
        MissingExtra: lm-eval is not installed.
        Untrusted: The task is a file in a bundle.
    """
    lm_eval = library("lm_eval", "lm-eval")
    from lm_eval import defaults
    from lm_eval.tasks import TaskManager

    folder, _, name = place.rpartition("/")
    if folder and not Path(folder).is_dir():
        raise Invalid(f"there is no folder {folder}", hint="name one with YAML files of tasks")
    manager = TaskManager(include_path=folder or None, include_defaults=not folder)
    if name not in manager.all_subtasks:
        near = difflib.get_close_matches(name, manager.all_subtasks, n=3, cutoff=0.0)
        raise Invalid(
            f"there is no task {name} in {folder or 'lm-eval'}",
            hint=f"the nearest are {', '.join(near)}" if near else "add a YAML file with `task:`",
        )
    file = Path(manager.task_index[name].yaml_path)
    if any((parent / MANIFEST).exists() for parent in file.resolve().parents):
        raise Untrusted(f"{file} is in a bundle", hint="name a folder of your own tasks")
    # The seeds are those of `simple_evaluate`, which would import PyTorch and run pip and git too.
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(defaults.DEFAULT_RANDOM_SEED)
    np.random.seed(defaults.DEFAULT_OTHER_SEED)
    try:
        task = (loaded := manager.load([name]))["tasks"][name]
        task.set_config(key="num_fewshot", value=task.get_config("num_fewshot") or 0)
        task.set_fewshot_seed(seed=defaults.DEFAULT_OTHER_SEED)
        with ExitStack() as opened:
            return task, lm_eval.evaluate(
                lm=_model(bundle, opened, is_chat=is_chat), task_dict=loaded, bootstrap_iters=0,
                apply_chat_template=is_chat, fewshot_as_multiturn=True,
            )  # fmt: skip
    except ImportError as error:
        raise Invalid(f"{name}: {first_line(error)}", hint="install the package") from error
    finally:  # they are the caller's, in whose process this runs
        random.setstate(before)
        np.random.set_state(numpy_before)


def task_values(run: Callable[[str, bool], tuple[Any, Any]], criterion: Criterion) -> Values:
    """The samples of the metric of a criterion, by `run_task`; `Invalid` where it has none."""
    inside = str(criterion.condition)
    place, _, written = inside.removesuffix(_CHAT).rpartition("/")
    task, results = run(place, inside.endswith(_CHAT))
    ((name, totals),) = results["results"].items()
    known = [key for key in totals if "," in key and "_stderr," not in key]
    keys = [key for key in known if written in (key, key.partition(",")[0])]
    if len(keys) != 1:
        raise Invalid(
            f"the task {name} has {'several filters of' if keys else 'no metric'} {written}",
            hint=f"name one of {', '.join(keys or known)}",
        )
    metric, _, chosen = keys[0].partition(",")
    if isinstance(criterion, NotWorse) and task.higher_is_better().get(metric) is False:
        raise Invalid(f"{metric}: less is better", hint="compare it with a limit")
    samples = results["samples"][name]
    samples = [row for row in samples if row["filter"] == chosen and metric in row]
    each = np.fromiter((row[metric] for row in samples), object, len(samples))
    digest = sha256_bytes("".join(row["doc_hash"] for row in samples).encode())
    evidence = (
        f"; lm-eval {version('lm_eval')}, {name} of version {task.VERSION}, "
        f"{results['n-shot'][name]}-shot, samples {digest[:19]}"
    )
    combine = task.aggregation().get(metric)
    if combine is not None and combine.__name__ != "mean":
        return Values(each, lambda rows: float(combine(list(rows))), note=evidence)
    each = each.astype(np.float64)
    error = f", standard error {each.std(ddof=1) / len(each) ** 0.5:.3g}" if len(each) > 1 else ""
    return Values(each, is_share=bool(np.isin(each, (0, 1)).all()), note=error + evidence)


def _model(bundle: Bundle, opened: ExitStack, *, is_chat: bool) -> Any:
    """The bundle as a model of lm-eval."""
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs

    from bascule.bundle.generation import open_scorer

    class BundleModel(LM):  # type: ignore[misc]
        tokenizer_name = bundle.digest

        @cached_property
        def _program(self) -> Any:
            return opened.enter_context(closing(bundle.program(threads=1)))

        @cached_property
        def _scorer(self) -> Any:
            if is_chat:
                raise Unconvertible("log probabilities are of plain texts", hint="leave out chat")
            return opened.enter_context(closing(open_scorer(bundle.path)))

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            if not add_generation_prompt:
                raise Unconvertible("a chat has no gen_prefix", hint="leave out chat")
            return json.dumps({"messages": chat_history})

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [self._text(*request.args) for request in requests]

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [self._likelihood(*request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [self._likelihood("", *request.args)[0] for request in requests]

        def _text(self, context: str, settings: dict[str, Any]) -> str:
            fields = dict(normalize_gen_kwargs(settings))
            del fields["do_sample"]  # the temperature has it
            fields["max_tokens"] = fields.pop("max_gen_toks")
            fields["stop"] = list(filter(None, fields.pop("until"))) or None
            fields |= json.loads(context) if is_chat else {"prompt": context}
            rows = {"request": np.array([json.dumps(fields)], object)}
            return str(self._program.run(rows)["text"][0])

        def _likelihood(self, context: str, text: str) -> tuple[float, bool]:
            rows = {"text": np.array([text], object), "context": np.array([context], object)}
            scored = self._scorer.run(rows)
            return float(scored["logprob"][0]), bool(scored["is_greedy"][0])

    return BundleModel()
