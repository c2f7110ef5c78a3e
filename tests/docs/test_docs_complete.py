"""The reference leaves nothing out, names nothing that is not there, and its links lead somewhere.

Each test reads a table of a page and holds it against the code that the table speaks of.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt
from tests.metrics import every_metric

import bascule
from bascule import cli
from bascule.bundle.disk import manifest as disk
from bascule.bundle.disk.manifest import Target
from bascule.bundle.generation import INPUTS, OUTPUTS
from bascule.core.errors import KINDS
from bascule.core.fields import DType, Field, Signature
from bascule.core.names import Reference
from bascule.metrics import DISPARITIES, SHORT_NAMES
from bascule.packing import pack
from bascule.packing.lineage import TABLE as LINEAGE
from bascule.release import METRICS
from bascule.release.criteria import DATA, LATENCIES, PRIVACIES, ROBUST, SIZES
from bascule.serving.calls import AnsweredBy
from bascule.serving.execution.extras import Extras
from bascule.serving.limits import Limits
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.table import open_protocols
from bascule.serving.telemetry.counters import STATUSES
from bascule.serving.transports import http1, http1_requests, statuses
from bascule.settings import (
    DELIMITER,
    PREFIX,
    ModelSettings,
    ReceiverSettings,
    RouteSettings,
    Settings,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def read(page: str) -> str:
    return (REFERENCE / page).read_text()


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, without the heading."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    made = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        made.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return made


def in_code(cell: str) -> str:
    found = re.match(r"`([^`]*)`", cell)
    assert found, f"{cell!r} does not begin with code"
    return found[1]


# -- settings --


def settings(holder: type[Any], before: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting: its name, its default, its type."""
    hints = get_type_hints(holder, include_extras=True)
    defaults = holder()
    for one in fields(holder):
        if is_dataclass(hints[one.name]):
            yield from settings(hints[one.name], f"{before}{one.name}.")
        else:
            yield before + one.name, getattr(defaults, one.name), hints[one.name]


SETTINGS = list(settings(Settings))


def written(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (tuple, dict)):
        return json.dumps(default)
    return str(default) or '""'


def bounds(hint: Any) -> str:
    signs = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}
    found = [
        f"{signs[type(mark)]} {next(iter(vars_of(mark)))}"
        for mark in get_args(hint)
        if type(mark) in signs
    ]
    if get_origin(hint) is Literal:
        found = [f"`{value}`" for value in get_args(hint)]
    return ", ".join(found)


def vars_of(mark: Any) -> list[Any]:
    return [getattr(mark, one.name) for one in fields(mark)]


def test_every_setting_is_documented_with_its_default_and_its_limits() -> None:
    rows = {in_code(row[0]): row for row in table(read("settings.md"), "setting")}

    assert list(rows) == [name for name, _, _ in SETTINGS]
    for name, default, hint in SETTINGS:
        _, shown, allowed, meaning = rows[name]
        assert in_code(shown) == written(default), name
        if bounds(hint):
            assert allowed == bounds(hint), name
        assert meaning.endswith("."), name


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("of a model", ModelSettings),
        ("of a receiver", ReceiverSettings),
        ("of a route", RouteSettings),
    ],
)
def test_every_setting_of_an_entry_is_documented_with_its_default_and_its_limits(
    heading: str, kind: type[Any]
) -> None:
    rows = {in_code(row[0]): row for row in table(read("settings.md"), heading)}

    found = list(settings(kind))
    assert list(rows) == [name for name, _, _ in found]
    for name, default, hint in found:
        _, shown, allowed, meaning = rows[name]
        assert in_code(shown) == written(default), name
        if bounds(hint):
            assert allowed == bounds(hint), name
        assert meaning.endswith("."), name


def test_the_page_says_how_a_variable_is_called() -> None:
    assert f"`{PREFIX}SERVING{DELIMITER}WORKERS=4`" in read("settings.md")


def test_the_fixed_bounds_are_those_of_a_worker() -> None:
    limits = Limits()
    shown = [row[1] for row in table(read("settings.md"), "bound")]

    assert shown == [
        f"{limits.max_rows:,}",
        str(limits.max_batch_rows),
        f"{limits.max_head_bytes >> 10} KiB",
        f"{limits.max_connections:,}",
        f"{limits.max_handshakes:,}",
        f"{limits.handshake_timeout_s:g} s",
        f"{limits.first_request_timeout_s:g} s",
        f"{limits.idle_timeout_s:g} s",
        f"{limits.max_held_bytes >> 30} GiB, or "
        f"{Limits(max_body_bytes=1 << 40).max_held_bytes >> 40} of `serving.max_body_bytes` "
        "if that is more",
        f"{limits.receive_timeout_s:g} s, and 1 s more for every "
        f"{limits.least_bytes_per_s >> 10} KiB of its body that has come",
        f"{limits.receive_timeout_s:g} s, and 1 s more for every "
        f"{limits.least_bytes_per_s >> 10} KiB of it that has been taken",
        f"{limits.receive_timeout_s:g} s",
    ]


# -- errors --


def test_every_kind_of_error_is_documented_with_its_status_and_its_exit_code() -> None:
    rows = {in_code(row[0]): row for row in table(read("errors.md"), "kind")}

    assert list(rows) == [kind.__name__ for kind in KINDS]
    for kind in KINDS:
        _, status, code, meaning = rows[kind.__name__]
        assert int(status) == statuses.STATUS_OF[kind], kind
        assert int(code) == cli.EXIT_CODES[kind], kind
        assert meaning, kind


def test_every_exit_code_is_documented_as_the_command_line_says() -> None:
    said = {int(row[0]): row[1] for row in table(cli.__doc__ or "", "code")}
    shown = {int(row[0]): row[1].rstrip(".").lower() for row in table(read("errors.md"), "code")}

    assert set(cli.EXIT_CODES.values()) <= set(shown)
    assert shown == {code: text.lower() for code, text in said.items()}


def test_every_status_that_can_be_answered_is_documented() -> None:
    shown = {int(row[0]) for row in table(read("http.md"), "status")}
    source = inspect.getsource(http1) + inspect.getsource(http1_requests)
    by_transport = {int(s) for s in re.findall(r"status=(\d{3})", source)}

    assert shown == {200, 207, 499} | set(statuses.STATUS_OF.values()) | by_transport
    assert shown <= set(STATUSES), "what is answered must be counted"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kind_is_named_beside_its_status(kind: Any) -> None:
    rows = {int(row[0]): row[1] for row in table(read("http.md"), "status")}

    assert f"`{kind.__name__}`" in rows[statuses.STATUS_OF[kind]] or issubclass(kind, KINDS[0]), (
        kind
    )


# -- HTTP --


def shown_routes(heading_text: str, page: str = "http.md") -> set[str]:
    text = read(page).split(heading_text)[1]
    rows = table(text, "method and path")
    return {route for row in rows for route in re.findall(r"`(.+?)`", row[0])}


class Model(SimpleNamespace):
    """A version, which is itself alone, as predictors are."""

    __eq__, __hash__ = object.__eq__, object.__hash__


def test_every_route_for_predictions_is_documented() -> None:
    field = Field("input", DType.FP64, (3,))
    model: Any = Model(
        name="MODEL",
        version="VERSION",
        digest="sha256:",
        service=SimpleNamespace(path=Path("bundle"), labels=("LABEL",), version="VERSION"),
        signature=Signature((field,), (field,)),
        program=SimpleNamespace(name="onnx", inputs=(field,)),
        batch_invariant=True,
        by=AnsweredBy("MODEL", "VERSION", "onnx"),
        extras=Extras(),
        asks_headers=frozenset(),
        needs="infer",
        places={},
        limits=Limits(),
        inline_rows=1,
        series=None,
        answer=None,
    )
    wishes: Any = SimpleNamespace()  # of a server whose callers load and unload, which has them all
    text, vector = Field("text", DType.BYTES), Field("vector", DType.FP32, (3,))
    signatures = model.signature, Signature(INPUTS, OUTPUTS), Signature((text,), (vector,))
    routes = {}
    for signature in signatures:
        model.signature = signature
        routes |= DataPlane(open_protocols(wishes=wishes), lambda: True).serve([model])
    made = {
        f"{method.decode()} {path.decode()}"
        for path, methods in routes.items()
        for method in methods
        if method != b"HEAD"
    }

    assert shown_routes("## Predictions") == made | {"GET /metrics"}
    assert all(b"HEAD" in methods for methods in routes.values() if b"GET" in methods)


def test_every_route_of_the_control_api_is_documented() -> None:
    from tests.controls import control_app

    def no_registry(*_: Any) -> Any:
        raise AssertionError("describing opens nothing")

    supervisor: Any = SimpleNamespace()
    described = control_app(supervisor, no_registry, no_registry).openapi()
    made = {
        f"{method.upper()} {path}"
        for path, methods in described["paths"].items()
        for method in methods
    }

    assert shown_routes("## Routes", "control-api.md") == made


def test_every_metric_of_the_server_is_documented_with_its_labels() -> None:
    text = every_metric()
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    listed = table(read("http.md"), "name")
    rows = {name: row for row in listed for name in re.findall(r"`(\w+)`", row[0])}

    assert set(rows) == families
    for name, (_, labels, _) in rows.items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        used = set(re.findall(r'(\w+)="', line)) - {"le"}
        assert set(re.findall(r"`(\w+)`", labels)) == used, name


# -- criteria --


def test_every_metric_of_the_criteria_is_documented() -> None:
    text = read("criteria.md")
    first, rest = text.split("## Quality")
    quality, about_data = rest.split("## The data")
    costs = [in_code(row[0]) for row in table(first, "metric")]
    short = {in_code(row[0]): row[1] for row in table(quality, "metric")}
    data = [in_code(row[0]) for row in table(about_data, "metric")]
    others = [name for row in table(text, "for") for name in re.findall(r"`(\w+)`", row[1])]

    assert costs == [*LATENCIES, *SIZES, "parity", *PRIVACIES]
    assert {name: in_code(scorer) for name, scorer in short.items()} == {
        name: scorer for name, (scorer, _) in SHORT_NAMES.items()
    }
    assert len(others) == len(set(others))
    assert data == list(DATA)
    changed = quality.split("### Of changed rows")[1]
    robust = {in_code(row[0]).partition("[")[0] for row in table(changed, "metric")}
    assert robust == ROBUST.keys()
    assert {*costs, *short, *others, *data, *robust} == METRICS
    stems = [name for row in table(text, "before `_difference` or `_ratio`")
             for name in re.findall(r"`(\w+)`", row[0])]  # fmt: skip
    assert {f"{stem}_difference" for stem in stems} <= DISPARITIES.keys()


# -- commands --


def generator(name: str = "generate_cli") -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    made = generator()

    assert made.PAGE.read_text() == made.page(), "run: python docs/generate_cli.py"


def test_the_page_of_extra_outputs_is_what_they_declare() -> None:
    made = generator("generate_extras")

    assert made.PAGE.read_text() == made.page(), "run: python docs/generate_extras.py"


def test_every_command_and_option_is_on_the_page_of_commands() -> None:
    import typer.main

    from bascule.cli.commands import app as commands

    found = dict(generator().commands_of(typer.main.get_command(commands)))
    page = read("cli.md")
    assert len(found) >= 12
    assert "keys create" in found
    for name, command in found.items():
        section = page.split(f"## bascule {name}\n")[1].split("\n## ")[0]
        for param in command.params:
            if param.hidden:  # of a form that is deprecated
                assert f"`{param.opts[0]}" not in section, f"{name} {param.opts[0]}"
                continue
            for option in [*param.opts, *param.secondary_opts]:
                if option.startswith("-"):
                    assert f"`{option}" in section, f"{name} {option}"


# -- Python --


def test_every_public_name_is_documented() -> None:
    shown = {in_code(row[0]) for row in table(read("python.md"), "name")}

    assert shown == {f"bascule.{name}" for name in bascule.__all__ if name != "__version__"}


def test_every_parameter_of_pack_is_documented_with_its_default() -> None:
    rows = {in_code(row[0]): row[1] for row in table(read("python.md"), "parameter")}
    parameters = inspect.signature(pack).parameters

    assert list(rows) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty:
            assert rows[name] == "required", name
        else:
            assert in_code(rows[name]) == repr(parameter.default), name


def test_every_member_of_a_bundle_is_documented() -> None:
    cells = [row[0] for row in table(read("python.md"), "member")]
    shown = {re.match(r"\w+", code)[0] for cell in cells for code in re.findall(r"`(.+?)`", cell)}  # type: ignore[index]
    members = {name for name in vars(bascule.Bundle) if not name.startswith("_")}

    assert shown == members | {"path", "manifest", "digest"}


def test_every_option_of_a_client_is_documented_with_its_default() -> None:
    rows = {in_code(row[0]): in_code(row[1]) for row in table(read("python.md"), "option")}
    blocking = inspect.signature(bascule.Client).parameters
    aio = inspect.signature(bascule.AsyncClient).parameters

    for parameters, lacks in ((aio, ""), (blocking, "max_connections")):
        assert {name: repr(one.default) for name, one in parameters.items()} == {
            name: default for name, default in rows.items() if name != lacks
        }


def test_every_method_of_a_client_is_documented_and_both_have_the_same() -> None:
    shown = {in_code(row[0]) for row in table(read("python.md"), "method")}

    def methods(kind: Any) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(p.name, p.default) for p in inspect.signature(one).parameters.values()]
            for name, one in vars(kind).items()
            if not name.startswith("_") and name not in ("control", "submit")  # of `Client` alone
        }

    assert methods(bascule.Client) == methods(bascule.AsyncClient)
    assert {one.partition("(")[0] for one in shown} == set(methods(bascule.Client))
    for one in shown:
        name, _, said = one.removesuffix(")").partition("(")
        told = [word.strip().partition("=") for word in said.split(",") if word.strip(" *")]
        assert [(word, default or None) for word, _, default in told] == [
            (word, None if default is inspect.Parameter.empty else repr(default))
            for word, default in methods(bascule.Client)[name][1:]
        ]


def test_every_documented_method_of_a_control_client_takes_what_the_page_says() -> None:
    shown = {in_code(row[0]) for row in table(read("python.md"), "of `Client.control`")}
    client = bascule.Client("http://127.0.0.1:1").control

    assert {one.partition("(")[0] for one in shown} == {"do", "list", "upload", "download"}
    for one in shown:
        name, _, said = one.removesuffix(")").partition("(")
        taken = inspect.signature(getattr(client, name)).parameters
        told = [word.partition("=")[0].strip(" *") for word in said.split(",")]
        assert [word for word in told if word] == list(taken)


def test_every_source_of_lineage_is_documented() -> None:
    rows = table((DOCS / "how-to/follow-lineage.md").read_text(), "a source")

    assert {in_code(row[0]).partition(":")[0] for row in rows} == set(LINEAGE)


# -- formats --


def test_every_key_of_a_manifest_and_of_a_statement_is_documented() -> None:
    text = read("bundle-format.md")
    manifest, statement = text.split("## Statements")
    keys = [in_code(row[0]) for row in table(manifest, "key")]
    said = [key for row in table(statement, "key") for key in re.findall(r"`(\w+)`", row[0])]

    made = disk.Manifest(
        name="m",
        flavor="sklearn",
        task="other",
        classes=None,
        signature=Signature((), ()),
        original=disk.OriginalEntry("original/model.skops", "skops", {}, {}),
        programs=(),
        serves=disk.ORIGINAL,
        files={},
        targets=(Target("a"),),
    )
    assert keys == list(made.to_json())
    assert said == list(disk.Statement("kind", "s", "t", "b", {}).to_json())
    for name in (disk.MANIFEST, disk.EXAMPLE, disk.TEST_DATA, disk.TRUTH, disk.CARD):
        assert name in text
    assert f"Schema version {disk.SCHEMA_VERSION}." in text


# -- links --

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_links_inside_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in _LINK.findall(text.replace("\n", " ")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_index() -> None:
    linked = {
        (DOCS / link.partition("#")[0]).resolve()
        for link in _LINK.findall((DOCS / "index.md").read_text().replace("\n", " "))
    }

    assert set(DOCS.rglob("*.md")) - {DOCS / "index.md"} == linked


def test_a_reference_on_the_pages_is_one_that_can_be_read() -> None:
    shown = [
        in_code(row[0])
        for row in table((DOCS / "how-to/serve-several.md").read_text(), "a reference")
    ]

    assert [str(Reference.parse(text)) for text in shown if not text.startswith(".")] == shown[:-1]
