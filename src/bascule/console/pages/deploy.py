"""`/deploy`: take in a bundle or a fitted model, see its gates, compare strategies, deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from bascule.console.calling import call
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.pages.batch import model_names
from bascule.console.pages.ledger import cell
from bascule.console.session import current
from bascule.console.site import Crumb, console_of, context_of, form_of, page_router, render, see
from bascule.console.uploads import MAX_FILE_BYTES, as_json
from bascule.control import problem_of
from bascule.core import BasculeError, Invalid, Reference, check_name

if TYPE_CHECKING:
    from bascule.control import Work
    from bascule.registry import Version

router = page_router(
    {
        "GET /deploy": ("read", ""),
        "POST /deploy": ("deploy", ""),  # of which endpoint is in the form: the API asks then
        "POST /deploy/files": ("write", ""),
        "POST /deploy/models": ("write", ""),  # of which model is in the form: asked then
        "GET /deploy/working": ("read", ""),
    }
)

ARCHIVES, MODELS, TABLES = (".tar", ".bundle"), (".onnx", ".skops"), (".csv", ".parquet")
STRATEGIES = {
    "all": "It answers every request at once.",
    "blue-green": "The same, and the version of before stays loaded for a quick return.",
    "canary": "Its share grows step by step, while evidence shows no harm.",
    "shadow": "It gets copies of requests; callers still get the answers of the current version.",
    "ab": "Half of the requests each; known outcomes decide.",
    "bandit": "Shares follow the outcomes.",
}
_MAX_MODELS = 200


@dataclass(frozen=True, slots=True)
class Gate:
    """A criterion, the value that was measured, and the verdict."""

    criterion: str
    value: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to deploy.

    Attributes:
        name: As the command takes it.
        text: What it does.
        sentence: How it would begin; empty where it would be refused.
        forecasts: What it finds after how many requests, by simulation.
        exposed: The most requests that the candidate answers before harm of 5 % is found; None
            where it is not simulated, or where harm is not found.
        problem: Why it would be refused, and the next step.
    """

    name: str
    text: str
    sentence: str
    forecasts: Sequence[str]
    exposed: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class Working:
    """Work that the page waits for."""

    id: str
    title: str
    busy_s: float | None
    problem: str = ""
    hint: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class DeployView:
    """The page.

    Attributes:
        references: Models and endpoints, for lists of suggestions.
        version: `MODEL/NUMBER` that was chosen; empty before.
        state: Of its gates: `passed`, `failed` or `unchecked`.
        gates: The criteria of the check that counts.
        endpoint: Where to.
        now: What answers there now.
        strategies: Empty until they are simulated.
        working: What is under way; None if nothing is.
        problem: Why the version cannot be shown.
        guards: As they were typed in, one a line.
    """

    references: Sequence[str]
    endpoints: Sequence[str]
    version: str
    wanted: str
    state: str
    gates: Sequence[Gate]
    endpoint: str
    now: str
    strategies: Sequence[Strategy]
    working: Working | None
    problem: str
    hint: str
    guards: str
    may_upload: bool
    max_mb: int = MAX_FILE_BYTES >> 20


@router.get("/deploy")
def deploy(
    request: Request,
    version: Annotated[str, Query(max_length=512)] = "",
    to: Annotated[str, Query(max_length=128)] = "",
    guards: Annotated[str, Query(max_length=4_096)] = "",
    work: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Choose a version; then its gates and the strategies."""
    working = _working(request, work) if work else None
    chosen, problem, hint = None, "", ""
    if version:
        try:
            chosen = _version(request, version)
        except BasculeError as error:
            problem, hint = error.message, error.hint
    gates, state, simulated = list[Gate](), "", None
    endpoint = to.strip() or (chosen.model if chosen else "")
    if chosen is not None:
        state, gates = _gates(request, chosen)
        simulated = _simulation(request, chosen, endpoint, _lines(guards))
    if simulated is not None and (not simulated.is_done or simulated.problem is not None):
        working = working_view(simulated, request.url.path + "?" + request.url.query)
    done = simulated.result if simulated is not None and simulated.problem is None else None
    view = DeployView(
        model_names(request, _MAX_MODELS),
        _endpoints(request), str(chosen or ""), version, state, gates,
        endpoint, _answers(request, endpoint), strategies_of(done or {}), working, problem, hint,
        guards, current(request).allows("write", ""),
    )  # fmt: skip
    title = f"Deploy {chosen}" if chosen else "Deploy"
    return render(request, "deploy.html", view, title=title, crumbs=[Crumb("Deploy")],
                  status=422 if problem else 200)  # fmt: skip


@router.get("/deploy/working")
def working(
    request: Request, work: Annotated[str, Query(max_length=64)],
    target: Annotated[str, Query(max_length=4_096)] = "",
) -> Response:  # fmt: skip
    """The part of the page that waits; when the work is done, the page goes on."""
    view = _working(request, work, target)
    response = render(request, "working.html", view, title=view.title)
    if view.busy_s is None and view.target:
        response.headers["HX-Redirect"] = view.target
    return response


@router.post("/deploy/files")
async def files(request: Request, name: Annotated[str, Query(max_length=512)]) -> Response:
    """Take in one file; the answer is its id."""
    return await take_file(request, name, (*ARCHIVES, *MODELS, *TABLES))


async def take_file(request: Request, name: str, suffixes: Sequence[str]) -> Response:
    """Keep the body of a request as a file of this person; errors are JSON, for the script."""
    try:
        made = await console_of(request).uploads.receive(
            request.stream(), name, current(request).subject, suffixes
        )
    except BasculeError as error:
        answer = problem_of(error, request.url.path)
        assert answer is not None
        return answer
    return JSONResponse(as_json(made))


@router.post("/deploy/models")
def take_in(request: Request) -> Response:
    """Pack a model, or take in a bundle, and put it before the gates."""
    form, context, session = form_of(request), context_of(request), current(request)
    model = check_name(field(form, "model", max_length=128))
    session.check("write", model)
    asked, title = _asked(request, form, model)
    do_task = context.do_task
    if do_task is None:
        raise Invalid("this server packs no models", hint="use bascule pack and bascule push")
    task = "take_in" if title.startswith("taking") else "pack"
    work = context.works.start(title, lambda: do_task(task, asked), owner=session.subject)
    return see(request, f"/deploy?work={work.id}")


def _asked(request: Request, form: Mapping[str, str], model: str) -> tuple[dict[str, Any], str]:
    uploads, owner = console_of(request).uploads, current(request).subject
    if not field(form, "file"):
        raise Invalid(
            "no file was sent", hint="choose a file; sending one needs JavaScript", field="file"
        )
    upload, path = uploads.find(field(form, "file"), owner)
    asked: dict[str, Any] = {"file": str(path), "model": model, "user": owner}
    if upload.suffix in ARCHIVES:
        return asked, f"taking in {upload.name} as {model}"
    for name in ("train", "test"):
        if sent := field(form, name):
            asked[name] = str(uploads.find(sent, owner)[1])
    asked["target"] = field(form, "target", max_length=512)
    return asked, f"packing {upload.name} as {model}"


@router.post("/deploy")
async def go(request: Request) -> Response:
    """Deploy, as `bascule deploy` does."""
    form = form_of(request)
    version, endpoint = field(form, "version"), field(form, "endpoint")
    body = {
        "version": version, "endpoint": endpoint, "strategy": field(form, "strategy"),
        "guards": _lines(field(form, "guards")), "reason": field(form, "reason"),
    }  # fmt: skip
    answer = await call(request, "POST /api/v1/deployments", body=body)
    if not answer.is_done:
        query = urlencode({"version": version, "to": endpoint, "guards": field(form, "guards")})
        return see(request, f"/deploy?{query}", Flash("bad", answer.problem))
    made = answer.body["deployed"] or answer.body["begun"]
    named = (
        made["plan"]["endpoint"] if answer.body["deployed"] else made["rollout"]["endpoint"]
    )  # fmt: skip
    return see(request, f"/endpoints/{named}", Flash("good", made["sentence"]))


def _version(request: Request, reference: str) -> Version:
    if reference.startswith((".", "/", "~")) or reference.endswith("/"):
        raise Invalid(f"version: {reference!r} is a folder", hint="name a version: late/4")
    named = Reference.parse(reference.strip())
    current(request).check("read", named.model)
    return context_of(request).registry().resolve(named)


def _gates(request: Request, version: Version) -> tuple[str, list[Gate]]:
    checks = context_of(request).registry().checks(version)
    return version.gates, gates_of(checks[-1].statement.body if checks else {})


def gates_of(body: Mapping[str, Any]) -> list[Gate]:
    """The criteria of a `gates` statement, those that failed first. Pure."""
    found = [
        Gate(
            str(one["criterion"]),
            cell(one.get("value")),
            one["passed"] is True, str(one.get("reason", "")),
        )
        for one in body.get("results", ())
    ]  # fmt: skip
    return sorted(found, key=lambda one: one.passed)


def _simulation(
    request: Request, version: Version, endpoint: str, guards: Sequence[str]
) -> Work | None:
    """What each strategy would do, by `deploy --dry-run` in a process of its own."""
    context, session = context_of(request), current(request)
    do_task = context.do_task
    if do_task is None or not session.allows("deploy", endpoint):
        return None
    facts = (str(version), version.gates, endpoint, _answers(request, endpoint), *guards)
    key = "\0".join(("forecasts", *facts))
    latest = context.works.latest(key)
    if latest is not None and latest.problem is None:
        return latest
    asked = {
        "version": str(version), "endpoint": endpoint, "guards": list(guards),
        "strategies": list(STRATEGIES), "user": session.subject,
    }  # fmt: skip
    return context.works.start(
        f"simulating the strategies for {version}", lambda: do_task("forecasts", asked),
        owner=session.subject, key=key,
    )  # fmt: skip


def strategies_of(made: Mapping[str, Any]) -> list[Strategy]:
    """What is shown of each strategy, from the answer of the task `forecasts`. Pure."""
    found = []
    for one in made.get("strategies", ()):
        lines = one.get("forecasts", ())
        exposed = [line["exposed"] for line in lines if line["harm"] == 0.05]
        known = [value for value in exposed if value is not None]
        hint = f" Next: {one['hint']}" if one.get("hint") else ""
        found.append(
            Strategy(
                one["strategy"], STRATEGIES.get(one["strategy"], ""), one.get("sentence", ""),
                [line["sentence"] for line in lines],
                max(known) if known and len(known) == len(exposed) else None,
                f"{one['problem']}.{hint}" if one.get("problem") else "",
            )
        )  # fmt: skip
    return found


def _working(request: Request, work: str, target: str = "") -> Working:
    found = context_of(request).works.get(work)
    if found.owner != current(request).subject and not found.key:
        raise Invalid("this was asked for by another person", hint="start it again yourself")
    if target and not target.startswith(("/deploy?", "/score?")):
        target = ""
    return working_view(found, target)


def working_view(work: Work, target: str = "") -> Working:
    """How far some work is, and the page that goes on with its result. Pure."""
    if work.problem is not None:
        return Working(work.id, work.title, None, work.problem.message, work.problem.hint)
    if not work.is_done:
        return Working(work.id, work.title, work.seconds, target=target)
    made = work.result or {}
    if "number" in made:
        target = "/deploy?" + urlencode({"version": f"{made['model']}/{made['number']}"})
    return Working(work.id, work.title, None, target=target)


def _endpoints(request: Request) -> list[str]:
    try:
        found = context_of(request).endpoints().endpoints()
    except BasculeError:
        return []
    return [one.name for one in found if current(request).allows("read", one.name)][:_MAX_MODELS]


def _answers(request: Request, endpoint: str) -> str:
    """What answers an endpoint now, in words; empty if nothing does."""
    if not endpoint:
        return ""
    try:
        return str(context_of(request).endpoints().endpoint(endpoint).answers)
    except BasculeError:
        return ""


def _lines(text: str) -> list[str]:
    return [one.strip() for one in text.splitlines() if one.strip()]
