"""What an answer loses, once its truth is known: the guards on outcomes. Pure.

| guard | loss of an answer | of models with |
|---|---|---|
| `accuracy` | 1 where it is wrong | labels |
| `log_loss` | the negative logarithm of the probability of the true class | probabilities |
| `approval` | 1 less the truth: 0 (thumbs down) to 1 (thumbs up) | texts |
| `"judged[NAME]"` | the same, by the judge NAME and a labelled sample | texts |
| `roc_auc` | of a positive and a negative: 1 where the negative scores higher | two classes |
| `mae`, `mse`, `mape` | the absolute, the squared, the relative error | numbers |
| `pinball0.9` | that of the quantile 0.9 | numbers |
| `"cost.COLUMN"` | the input COLUMN where a label is wrong | labels |
| `"wrong[COLUMN=VALUE]"` | 1 over the share of the group, where it is in it and wrong | labels |
| `"cost.COLUMN"` | the absolute error times the input COLUMN | numbers |

Each is SQL over a prediction and its truth, which measures the held-out rows before a rollout and
the ledger during it. A loss over `Loss.bound` counts as the bound: means of losses without one
cannot be compared at any number of answers (Bahadur and Savage 1956).

`wrong[sex=F]` guards the fairness of a change: its mean over all requests is the share of wrong
answers to the group, where the group has the share of requests that it has of the held-out rows.
Requests are assigned to the arms at random, so that the group is as frequent in both, and the test
is valid at any time as for every bounded loss. A group of a twentieth asks for about twenty times
the requests. A gap that the current version has is for gates to judge: a guard is on the change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from bascule.bundle.disk import generates_text
from bascule.core import Signature
from bascule.stats import JudgeCalibration

Label = str | int | float | bool

RATES = ("accuracy", "roc_auc", "approval")
"""Of losses of 0, 1 and a half. Their guards are in percentage points; worse is less."""
_COST = "cost."
_GROUP = re.compile(r"^wrong\[(?P<column>[^\]=]+)=(?P<value>[^\]]+)\]$")
_JUDGED = re.compile(r"^judged\[(?P<judge>[^\]]+)\]$")
_PINBALL = re.compile(r"^pinball(?P<share>0?\.\d*[1-9]\d*)$")
_EXAMPLES = ("pinball0.9", "cost.COLUMN", "wrong[COLUMN=VALUE]", "judged[NAME]")
_LEAST_PROBABILITY = 1e-15


class Rectifier(msgspec.Struct, frozen=True):
    """How a judge's scores and a labelled sample make losses; see `stats.rectified`.

    Attributes:
        judge: Its name.
        judged_share: Of the answers, those that are judged, by `outcome_draw` of their ids.
        label_share: Of the answers, those that a person labels, likewise: a part of these.
        calibration: What is expected by the score.
    """

    judge: str
    judged_share: float
    label_share: float
    calibration: JudgeCalibration = JudgeCalibration()

    @property
    def range(self) -> tuple[float, float]:
        """Of the rectified losses: the least one, and the width."""
        least = 1 - self.judged_share / self.label_share
        return least, 1 - 2 * least


class Loss(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a guard measures losses, fixed before its rollout starts.

    Attributes:
        output: The column of the ledger with the answer: `"output.label"`; of a part of a
            composition `"input.PART.label"`.
        output_place: Of the number in a list, from 1; 0 where the column has no lists.
        classes: In the order of the probabilities: of the current version and of the candidate.
        cost: The column with the costs, or with the group; empty for none.
        cost_place: As `output_place`.
        bound: The loss as which a larger one counts.
        level: The current version's mean loss on its held-out rows, with that bound.
        spread: The standard deviation of these losses.
        rows: How many held-out rows there were; 0 for a guard that needs none.
        rectifier: Of a guard on judged answers.
    """

    output: str
    output_place: int = 0
    classes: tuple[tuple[Label, ...], ...] = ()
    cost: str = ""
    cost_place: int = 0
    bound: float = 1.0
    level: float = 0.0
    spread: float = 0.0
    rows: int = 0
    rectifier: Rectifier | None = None

    def approval_of(self, rate: float) -> float:
        """The approval that a mean loss in parts of the bound stands for.

        The rectified mean of few answers may be beyond 0 or 1.
        """
        least = self.rectifier.range[0] if self.rectifier else 0.0
        return min(max(1 - least - rate * self.bound, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a version answers, as far as losses need it.

    Attributes:
        task: `classification`, `regression`...
        classes: In the order of the probabilities.
        signature: Of the version.
        sources: Of a composition, see its `Plan`.
    """

    task: str
    classes: tuple[Label, ...]
    signature: Signature
    sources: Mapping[str, frozenset[str]] | None = None


LABELS = Loss("output.label")


def is_rate(name: str) -> bool:
    """Whether a guard of this name is in percentage points, and worse is less."""
    return name in RATES or bool(judge_of(name))


def judge_of(name: str) -> str:
    """The judge of a guard on judged answers; empty for another guard."""
    judged = _JUDGED.match(name)
    return judged["judge"].strip() if judged else ""


def is_on_outcomes(name: str) -> bool:
    """Whether a guard of this name compares answers with their truths."""
    return _kind(name) in (*RATES, "log_loss", "mae", "mse", "mape", *_EXAMPLES)


def units_of(name: str) -> tuple[str, ...]:
    """In which units a guard on outcomes is given; the empty one is the unit of the loss."""
    if is_rate(name):
        return ("pp",)
    return ("%", "pp") if name == "mape" or is_of_group(name) else ("%", "")


def is_of_group(name: str) -> bool:
    """Whether a guard of this name is on the answers to one group."""
    return _GROUP.match(name) is not None


def countable(answers: Answers) -> list[str]:
    """The guards on outcomes that suit a version, with examples of those that have an argument."""
    outputs = {field.name: field for field in answers.signature.outputs}
    first = answers.signature.outputs[0]
    if generates_text(answers.signature):
        return ["approval", _EXAMPLES[3]]
    if answers.task == "regression" and (len(outputs) == 1 or first.name == "prediction"):
        is_number = first.shape in ((), (1,))
        return ["mae", "mse", "mape", *_EXAMPLES[:2]] if is_number else []
    if answers.task not in ("classification", "outlier-detection") or "label" not in outputs:
        return []
    with_probabilities = []
    if "probabilities" in outputs and answers.classes:
        with_probabilities = ["log_loss", *(["roc_auc"] if len(answers.classes) == 2 else [])]
    return ["accuracy", *with_probabilities, *_EXAMPLES[1:3]]


def loss_of(name: str, current: Answers, candidate: Answers) -> Loss | None:
    """How a guard measures two versions, without its scale; None where it does not suit them."""
    kind = _kind(name)
    if kind not in countable(current) or kind not in countable(candidate):
        return None
    cost, cost_place = "", 0
    if kind in ("approval", _EXAMPLES[3]):
        return Loss("")
    if kind in _EXAMPLES[1:]:
        group = _GROUP.match(name)
        column = group["column"] if group else name.removeprefix(_COST)
        cost, cost_place = input_column(column, current.signature, "iufbOSU" if group else "iuf")
        if not cost:
            return None
    if kind in ("log_loss", "roc_auc"):
        return Loss("output.probabilities", classes=(current.classes, candidate.classes))
    if current.task == "regression":
        output = current.signature.outputs[0]
        return Loss(f"output.{output.name}", len(output.shape), (), cost, cost_place)
    return Loss("output.label", cost=cost, cost_place=cost_place)


def loss_sql(name: str, loss: Loss, arm: int) -> str:
    """The loss as SQL over a prediction with its `truth` and `truth_number`.

    NULL where it is unknown: the truth is no number, or nought as the base of a relative error. Of
    `roc_auc` it is a struct: the score, and whether the truth is the positive class.

    Args:
        name: Of the guard.
        loss: How it measures.
        arm: 0 for the current version, 1 for the candidate.
    """
    part, point, output = loss.output.rpartition(".")
    if part.startswith("input."):
        of_whole = msgspec.structs.replace(loss, output=f"output{point}{output}")
        return loss_sql(name, of_whole, arm).replace('"output.', f'"{part}.')
    if is_of_group(name):
        return f"CASE WHEN {group_sql(name, loss)} AND {_WRONG} THEN {loss.bound!r} ELSE 0 END"
    if loss.rectifier is not None:
        return _rectified_sql(loss.rectifier)
    if name == "approval":
        return DISAPPROVAL
    kind, cost = _kind(name), _element(loss.cost, loss.cost_place)
    cost = f"CASE WHEN isnan({cost}) THEN NULL WHEN {cost} < 0 THEN 0 ELSE {cost} END"
    if kind in ("log_loss", "roc_auc"):
        return _of_probabilities(kind, loss.classes[arm])
    if loss.output == "output.label":
        return _WRONG if not loss.cost else f"CASE WHEN {_WRONG} THEN {cost} ELSE 0 END"
    error = f"({_element(loss.output, loss.output_place)} - truth_number)"
    if quantile := _PINBALL.match(name):
        share = float(quantile["share"])
        return f"greatest({-share!r} * {error}, {1 - share!r} * {error})"
    return {
        "mae": f"abs({error})",
        "mse": f"{error} * {error}",
        "mape": f"CASE WHEN truth_number <> 0 THEN abs({error} / truth_number) END",
        "cost.COLUMN": f"abs({error}) * ({cost})",
    }[kind]


def group_sql(name: str, loss: Loss) -> str:
    """Whether an answer is to the group of a guard: its input is that text, or that number."""
    group = _GROUP.match(name)
    value = "" if group is None else group["value"].strip().replace("'", "''")
    place = f"[{loss.cost_place}]" if loss.cost_place else ""
    column = '"' + loss.cost.replace('"', '""') + '"' + place
    return (
        f"(coalesce(CAST({column} AS VARCHAR) = '{value}', FALSE) OR coalesce("
        f"TRY_CAST({column} AS DOUBLE) = TRY_CAST('{value}' AS DOUBLE), FALSE))"
    )


def left_out(
    loss: Loss, answers: Answers, model: str, private: Mapping[str, str], max_values: int
) -> str:
    """The field that a loss reads and the ledger does not keep as it is; empty for none."""
    signature = answers.signature
    sizes = {
        f"{part}.{field.name}": abs(math.prod(field.shape))
        for part, fields in (("input", signature.inputs), ("output", signature.outputs))
        for field in fields
    }
    for column in filter(None, (loss.output, loss.cost)):
        name = column.partition(".")[2]
        names = {name, *(answers.sources or {}).get(name, ())}
        names |= {f"{model}.{known}" for known in names}
        if names & private.keys() or sizes[column] > max_values:
            return name
    return ""


_WRONG = """CASE
    WHEN typeof("output.label") = 'BOOLEAN'
        THEN TRY_CAST(truth AS BOOLEAN) IS DISTINCT FROM TRY_CAST("output.label" AS BOOLEAN)
    ELSE CAST("output.label" AS VARCHAR) <> truth
        AND NOT coalesce(TRY_CAST("output.label" AS DOUBLE) = truth_number, FALSE)
    END"""
"""Whether a label is wrong. It may be written as another type than its truth: 1, 1.0 and "1" are
the same."""


DISAPPROVAL = "CASE WHEN NOT isnan(truth_number) THEN 1 - greatest(0, least(1, truth_number)) END"
"""DuckDB's `least` ignores NULL, and NaN is over all numbers."""


def _rectified_sql(rectifier: Rectifier) -> str:
    """The rectified loss of an answer, less the least one; NULL while its score or label lacks.

    Over a row with `is_judged` and `score`, which is NULL where the judge gave none.
    """
    unusable, at_0, slope = rectifier.calibration
    share = rectifier.label_share / rectifier.judged_share
    expected = (
        f"CASE WHEN score IS NULL THEN {unusable!r} "
        f"ELSE greatest(0, least(1, {at_0!r} + {slope!r} * score)) END"
    )
    return (
        f"CASE WHEN is_judged THEN ({expected}) - {rectifier.range[0]!r} + CASE WHEN "
        f"outcome_draw(id) < {rectifier.label_share!r} "
        f"THEN (({DISAPPROVAL}) - ({expected})) / {share!r} ELSE 0 END END"
    )


def _of_probabilities(kind: str, classes: tuple[Label, ...]) -> str:
    cases = [
        (_is_truth(label), f'"output.probabilities"[{place}]')
        for place, label in enumerate(classes, 1)
    ]
    if kind == "roc_auc":
        (negative, _), (positive, score) = cases
        truth = f"CASE WHEN {positive} THEN 1 WHEN {negative} THEN 0 END"
        return f"{{'score': {score}, 'positive': {truth}}}"
    chosen = " ".join(f"WHEN {is_true} THEN {share}" for is_true, share in cases)
    return f"-ln(greatest(CASE {chosen} ELSE 0 END, {_LEAST_PROBABILITY}))"


def _is_truth(label: Label) -> str:
    if isinstance(label, bool):
        return f"coalesce(TRY_CAST(truth AS BOOLEAN) = {label}, FALSE)"
    if isinstance(label, int | float):
        return f"coalesce(truth_number = {float(label)!r}, FALSE)"
    return "truth = '" + label.replace("'", "''") + "'"


def _kind(name: str) -> str:
    """The name, with the example's argument for its own."""
    if name.startswith(_COST) and len(name) > len(_COST):
        return _EXAMPLES[1]
    if is_of_group(name):
        return _EXAMPLES[2]
    if judge_of(name):
        return _EXAMPLES[3]
    return _EXAMPLES[0] if _PINBALL.match(name) else name


def input_column(name: str, signature: Signature, kinds: str) -> tuple[str, int]:
    """The column of the ledger with an input of such a dtype, and its place in a list."""
    for field in signature.inputs:
        if field.name == name and not field.shape and field.dtype.numpy.kind in kinds:
            return f"input.{name}", 0
    if len(signature.inputs) == 1 and name in signature.columns:
        return f"input.{signature.inputs[0].name}", signature.columns.index(name) + 1
    return "", 0


def _element(column: str, place: int) -> str:
    quoted = '"' + column.replace('"', '""') + '"'
    return f"CAST({quoted}[{place}] AS DOUBLE)" if place else f"CAST({quoted} AS DOUBLE)"
