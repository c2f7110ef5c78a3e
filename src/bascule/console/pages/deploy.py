"""`/deploy`: take in a bundle or a fitted model, see its gates, compare strategies, deploy."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from bascule.console.calling import call
from bascule.console.facts import endpoints_of, job_of_person, suggested_models, version_named
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, console_of, context_of, form_of, render, see
from bascule.console.uploads import MAX_FILE_BYTES
from bascule.console.words import capital, cell
from bascule.control import problem_of
from bascule.core import BasculeError, Invalid, check_name, sha256_bytes
from bascule.jobs import Task
from bascule.release.rollouts import operations

if TYPE_CHECKING:
    from bascule.jobs import Job
    from bascule.registry import Version

router = PageRouter()

ARCHIVES, MODELS, TABLES = (".tar", ".bundle"), (".onnx", ".skops"), (".csv", ".parquet")
TITLES = {
    "all": ("All at once", "Deploy all at once"),
    "blue-green": ("Blue-green", "Deploy as blue-green"),
    "canary": ("Canary", "Deploy as canary"),
    "shadow": ("Shadow", "Deploy as shadow"),
    "ab": ("A/B test", "Deploy as A/B test"),
    "bandit": ("Bandit", "Deploy as bandit"),
}
"""By strategy: its name for people, and the words of its button."""
STRATEGIES = {
    "all": "It answers every request at once.",
    "blue-green": "The same, and the version of before stays loaded for a quick return.",
    "canary": "Its share grows step by step, while evidence shows no harm.",
    "shadow": "It gets copies of requests; callers still get the answers of the current version.",
    "ab": "Half of the requests each; known outcomes decide.",
    "bandit": "Shares follow the outcomes.",
}
_MAX_ENDPOINTS = 200


@router.page("GET /deploy", "read")
def deploy(
    request: Request,
    version: Annotated[str, Query(max_length=512)] = "",
    to: Annotated[str, Query(max_length=128)] = "",
    guards: Annotated[str, Query(max_length=4_096)] = "",
    work: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Choose a version; then its gates and the strategies."""
    context, session = context_of(request), current(request)
    shown = job_of_person(context, session, work) if work else None
    chosen, problem = None, None
    if version:
        try:
            chosen = _version(request, version)
        except BasculeError as error:
            problem = error
    gates, strategies = list[tuple[str, bool, str, str]](), list[dict[str, Any]]()
    refused = list[tuple[list[str], str, str]]()
    endpoint = to.strip() or (chosen.model if chosen else "")
    if chosen is not None:
        checks = context.registry().checks(chosen)
        gates = gates_of(checks[-1].statement.body if checks else {})
        shown = _simulation(request, chosen, endpoint, _lines(guards))
        made = None if shown is None else shown.result
        if made is not None:
            shown, strategies, refused = None, strategies_of(made), refused_of(made)
    return render(
        request, "deploy.html", f"Deploy {chosen}" if chosen else "Deploy",
        crumbs=[Crumb("Deploy")], status=422 if problem else 200, problem=problem,
        version=str(chosen or ""), wanted=version, state=chosen.gates if chosen else "",
        gates=gates, endpoint=endpoint,
        now=_answers(request, endpoint), guards=guards, strategies=strategies, work=shown,
        refused=refused, usual=usual_of(strategies),
        target=f"{request.url.path}?{request.url.query}" if chosen else "",
        max_mb=MAX_FILE_BYTES >> 20,
        references=suggested_models(context, session),
        endpoints=[one.name for one in endpoints_of(context, session)][:_MAX_ENDPOINTS],
    )  # fmt: skip


@router.page("GET /deploy/working", "read")
def working(
    request: Request, work: Annotated[str, Query(max_length=64)],
    target: Annotated[str, Query(max_length=4_096)] = "",
) -> Response:  # fmt: skip
    """The part of the page that waits; when the work is done, the page goes on."""
    found = job_of_person(context_of(request), current(request), work)
    made = found.result or {}
    if "number" in made:
        target = "/deploy?" + urlencode({"version": f"{made['model']}/{made['number']}"})
    elif not target.startswith("/deploy?"):
        target = ""
    response = render(request, "working.html", found.title, work=found, target=target)
    if found.result is not None and target:
        response.headers["HX-Redirect"] = target
    return response


@router.page("POST /deploy/files", "write")
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
    return JSONResponse({"id": made.id, "name": made.name, "size": made.size_bytes})


@router.page("POST /deploy/models", "write")  # of which model is in the form: asked then
def take_in(request: Request) -> Response:
    """Pack a model, or take in a bundle, and put it before the gates."""
    form, context, session = form_of(request), context_of(request), current(request)
    model = check_name(field(form, "model", max_length=128))
    session.check("write", model)
    asked, title = _asked(request, form, model)
    kind = "take_in" if title.startswith("taking") else "pack"
    work = context.jobs().submit(Task(
        kind=kind, input=asked, title=title, by=session.subject, host=socket.gethostname()
    ))  # fmt: skip
    return see(request, f"/deploy?work={work.id}")


def _asked(request: Request, form: Mapping[str, str], model: str) -> tuple[dict[str, Any], str]:
    uploads, owner = console_of(request).uploads, current(request).subject
    if not field(form, "file"):
        raise Invalid(
            "no file was sent", hint="choose a file; sending one needs JavaScript", field="file"
        )
    upload, path = uploads.find(field(form, "file"), owner)
    asked: dict[str, Any] = {"file": str(path), "model": model}
    if upload.suffix in ARCHIVES:
        return asked, f"taking in {upload.name} as {model}"
    for name in ("train", "test"):
        if sent := field(form, name):
            asked[name] = str(uploads.find(sent, owner)[1])
    asked["target"] = field(form, "target", max_length=512)
    return asked, f"packing {upload.name} as {model}"


@router.page("POST /deploy", "deploy")  # of which endpoint is in the form: the API asks then
async def go(request: Request) -> Response:
    """Deploy, as `bascule deploy` does."""
    form = form_of(request)
    version, endpoint = field(form, "version"), field(form, "endpoint")
    body = {
        "version": version, "endpoint": endpoint, "strategy": field(form, "strategy"),
        "guards": _lines(field(form, "guards")), "reason": field(form, "reason"),
    }  # fmt: skip
    answer = await call(request, operations.DEPLOY, body=body)
    if not answer.is_done:
        query = urlencode({"version": version, "to": endpoint, "guards": field(form, "guards")})
        return see(request, f"/deploy?{query}", Flash("bad", answer.problem))
    made = answer.body["deployed"] or answer.body["begun"]
    named = (made.get("plan") or made["rollout"])["endpoint"]
    return see(request, f"/endpoints/{named}", Flash("good", capital(made["sentence"])))


def _version(request: Request, reference: str) -> Version:
    named = version_named(reference.strip())
    current(request).check("read", named.model)
    return context_of(request).registry().resolve(named)


def gates_of(body: Mapping[str, Any]) -> list[tuple[str, bool, str, str]]:
    """Criterion, verdict, value and reason of a `gates` statement; failed ones first. Pure."""
    found = [
        (one["criterion"], one["passed"] is True, cell(one.get("value")), one.get("reason", ""))
        for one in body.get("results", ())
    ]
    return sorted(found, key=lambda one: one[1])


def _simulation(
    request: Request, version: Version, endpoint: str, guards: Sequence[str]
) -> Job | None:
    """What each strategy would do, by `deploy --dry-run` in a process of its own."""
    context, session = context_of(request), current(request)
    if not session.allows("deploy", endpoint):
        return None
    facts = (str(version), version.gates, endpoint, _answers(request, endpoint), *guards)
    runner, subject = context.jobs(), sha256_bytes("\0".join(facts).encode())
    latest = runner.find(kind="forecasts", subject=subject, limit=1)
    if latest and latest[0].error is None:
        return latest[0]
    asked = {
        "version": str(version), "endpoint": endpoint, "guards": list(guards),
        "strategies": list(STRATEGIES),
    }  # fmt: skip
    return runner.submit(Task(
        kind="forecasts", input=asked, title=f"simulating the strategies for {version}",
        by=session.subject, subject=subject,
    ))  # fmt: skip


def strategies_of(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is shown of each possible strategy, from the result of the task `forecasts`. Pure.

    `exposed`: the most requests that the candidate answers before harm of 5 % is found; None where
    it is not simulated, or where a guard does not find it.
    """
    found = []
    for one in made.get("strategies", ()):
        if one.get("problem"):
            continue
        name = one["strategy"]
        title, label = TITLES.get(name, (name, f"Deploy as {name}"))
        exposed = [line["exposed"] for line in one.get("forecasts", ()) if line["harm"] == 0.05]
        most = max(exposed) if exposed and None not in exposed else None
        found.append({
            "forecasts": (), **one, "sentence": capital(one.get("sentence", "")),
            "text": STRATEGIES.get(name, ""), "exposed": most, "title": title, "label": label,
        })  # fmt: skip
    return found


def refused_of(made: Mapping[str, Any]) -> list[tuple[list[str], str, str]]:
    """The strategies that are not possible, by reason: their titles, the reason, what to do. Pure.

    A strategy that is possible is no advice: its button is on the page.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for one in made.get("strategies", ()):
        if one.get("problem"):
            hint = "" if "--strategy" in one.get("hint", "") else one.get("hint", "")
            title = TITLES.get(one["strategy"], (one["strategy"],))[0]
            found.setdefault((one["problem"], hint), []).append(title)
    return [(titles, *why) for why, titles in found.items()]


def usual_of(strategies: Sequence[Mapping[str, Any]]) -> str:
    """The strategy to choose without another reason: the canary, if it is possible. Pure."""
    names = [one["strategy"] for one in strategies]
    return "canary" if "canary" in names else next(iter(names), "")


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
