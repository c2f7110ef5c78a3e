"""The registry and the server from Python: what the commands do, for notebooks and scripts.

Settings are read as a command reads them, from `bascule.toml` in the working directory and from
the environment. Histories name the user of this process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from bascule.bundle import Bundle, load as load_folder
from bascule.core import (
    Invalid,
    NotFound,
    Reference,
    end,
    length_of,
    start_announcing,
    user_name,
)

if TYPE_CHECKING:
    from bascule.batch import MonitoringRules
    from bascule.jobs import Jobs
    from bascule.monitoring import DriftReport, Ledger, PerformanceReport, ProductionDrift
    from bascule.monitoring.alerts import Alert
    from bascule.monitoring.reporting import Overview
    from bascule.packing import Composition
    from bascule.registry import Event, Registry, Version
    from bascule.release import GateReport
    from bascule_client import Client
    from bascule_client.outcomes import OutcomesAdded

_STOP_S = 20.0


def open_registry() -> Registry:
    """The registry of the settings; `BASCULE_HOME` or `.bascule` if they name none."""
    from bascule.app import open_registry as opened
    from bascule.settings import load_settings

    return opened(load_settings())


def load(reference: str | Path) -> Bundle:
    """Open a bundle by its folder, or a registered one by its name: `good/1`, `good@champion`.

    Every file is compared with its digest first. A text is a folder if a bundle lies there.

    Raises:
        NotFound: There is neither such a folder nor such a model.
        Untrusted: A file is not what the manifest says.
    """
    from bascule.control import is_path, registered

    if isinstance(reference, Path) or is_path(reference) or not _may_be_a_model(reference):
        return load_folder(reference)
    try:
        registry, version = registered(open_registry, reference)
    except (Invalid, NotFound) as problem:
        if Path(reference).exists():
            raise
        raise NotFound(
            f"no bundle at {reference!r}, and as the name of a model: {problem.message}",
            hint=problem.hint or "bascule models lists the registered ones",
            path=reference,
        ) from None
    return load_folder(registry.path(version))


def compose(composition: str | Path | Mapping[str, Any]) -> Composition:
    """A graph of models for `pack`: chains, ensembles, routers and rule tables.

    Args:
        composition: A TOML file, or the mapping that it would hold. Its models are folders of
            bundles, or registered ones by their names: `late/3`, `late@champion`.

    Raises:
        Invalid: It does not fit together: an unknown part or column, types, a cycle, an example
            that a rule table fails. The message names the place.
        NotFound: A model is not there.
    """
    from bascule.packing import Composition

    return Composition(composition, load)


def _may_be_a_model(text: str) -> bool:
    try:
        return Reference.parse(text) is not None and not text.endswith(".bundle")
    except Invalid:
        return False


def open_ledger() -> Ledger:
    """The ledger of the settings: `open_ledger().query("select ...", model="late").to_pandas()`."""
    from bascule.app import open_ledger as opened
    from bascule.settings import load_settings

    return opened(load_settings())


@overload
def drift(
    reference: Bundle | str | Path,
    current: None = None,
    *,
    since: timedelta | str = ...,
    **options: Any,
) -> ProductionDrift: ...
@overload
def drift(reference: Bundle | str | Path, current: Any, **options: Any) -> DriftReport: ...
def drift(
    reference: Bundle | str | Path,
    current: Any = None,
    *,
    since: timedelta | str = timedelta(days=30),
    **options: Any,
) -> DriftReport | ProductionDrift:
    """Compare production, or a table, with the baseline of a bundle.

    Args:
        reference: A bundle, its folder, or a registered model: `gb`, `gb/3`, `gb@champion`. For
            production the name of the model, or the folder that is served.
        current: Any table or matrix with the columns of the model; further columns are ignored.
            None compares the days of production that the ledger has, by version.
        since: How far back days of production are reported: a timedelta, or text such as "7d".
        **options: `budget` (4 false alarms a year), `effects` (an `Effect` by column); of a table
            also `windows_a_year` (365), `time_column`, `score` (True): see
            `monitoring.measure_drift`.

    Returns:
        The report: `is_alarm`, `windows` (of production: `versions`), `to_json()`; of a table also
        `to_arrow()`. Printed, it is a table.

    Raises:
        NotFound: There is no such bundle or model, or the ledger has no answers of it.
        Invalid: The bundle has no baseline, or the table does not fit it.
    """
    from bascule.documents import progress_line
    from bascule.monitoring import measure_drift, measure_production_drift

    with progress_line("drift"):
        if current is None:
            home, model, opened = _production(reference)
            return measure_production_drift(
                home, model, opened, since=length_of(since, "since"), **options
            )
        bundle = reference if isinstance(reference, Bundle) else load(reference)
        return measure_drift(bundle, current, **options)


def performance(
    reference: Bundle | str | Path, current: Any = None, **options: Any
) -> PerformanceReport:
    """Measure predictions against their truths: those of the ledger, or of a table.

    Args:
        reference: A bundle, its folder, or a registered model: `gb`, `gb/3`, `gb@champion`. For the
            ledger, `gb` means all its versions.
        current: A table with a column of truths; the ledger of the settings if None.
        **options: `truth_column`, `prediction_column` and `time_column` of a table; `since` (a
            datetime, a timedelta, or text such as "7d"), `by` ("day"), `metrics`, `slice_by`,
            `budget` (4 false alarms a year), `effects`: see `monitoring.measure_performance`.

    Returns:
        The report: `is_alarm`, `findings`, `windows`, `to_arrow()`, `to_json()`.

    Raises:
        NotFound: There is no such bundle or model, or the ledger has no answers of it.
        Invalid: The table does not fit, or an option is wrong.
    """
    from bascule.documents import progress_line
    from bascule.monitoring import measure_performance

    if not isinstance(since := options.get("since"), datetime | None):
        options["since"] = datetime.now(UTC) - length_of(since, "since")
    with progress_line("performance"):
        if current is not None:
            bundle = reference if isinstance(reference, Bundle) else load(reference)
            return measure_performance(current, bundle, **options)
        home, name, bundle_of = _production(reference)
        if isinstance(reference, Bundle):
            return measure_performance(home, reference, **options)
        return measure_performance(home, name, bundle_of=bundle_of, **options)


def add_outcomes(
    model: str,
    outcomes: Any,
    *,
    id_column: str = "id",
    truth_column: str = "truth",
    time_column: str | None = None,
) -> OutcomesAdded:
    """Keep the truth about predictions in the home of the settings, as `outcomes import` does.

    Args:
        model: The model that was asked.
        outcomes: Pairs of prediction id and truth, rows as dictionaries, or a table of any library.
        id_column: The column, or key, of the ids: `ID#ROW`, or `ID` for row 0.
        truth_column: That of the truths: numbers, texts or booleans.
        time_column: That of the times when each became true; now if None.

    Returns:
        How many are on the disk, and those that were refused, by their place from 0. Of several
        truths about one row the last one counts.

    Raises:
        Invalid: A column is missing, or the model's name cannot be one.
        Unavailable: The home cannot be written; earlier parts of 10,000 are kept.
    """
    from bascule.app import open_outcomes
    from bascule.settings import load_settings
    from bascule_client.outcomes import OutcomesAdded, RefusedOutcome, outcome_rows

    rows = outcome_rows(outcomes, id_column, truth_column, time_column)
    taken, refused = open_outcomes(load_settings()).add_rows(model, rows)
    return OutcomesAdded(
        taken, tuple(RefusedOutcome(one.index, one.id, one.reason) for one in refused)
    )


def monitor(
    reference: Bundle | str | Path, *, since: timedelta | str = timedelta(days=7), **options: Any
) -> Overview:
    """What the ledger says of a model: health, drift, truths; printed, it is one screen.

    Args:
        reference: The name of a model, or the folder that is served.
        since: How far back: a timedelta, or text such as "7d".
        **options: `budget` (4 false alarms of drift a year), `effects` (an `Effect` by column).

    Raises:
        NotFound: The ledger has no answers of this model.
    """
    from bascule.documents import progress_line
    from bascule.monitoring.reporting import look_at

    home, model, opened = _production(reference)
    with progress_line("report") as tell:
        return look_at(
            home, model, opened, since=length_of(since, "since"), **{"progress": tell, **options}
        )


def report(
    reference: Bundle | str | Path,
    out: str | Path,
    *,
    since: timedelta | str = timedelta(days=30),
    **options: Any,
) -> Overview:
    """Write what `monitor` gives as one page of HTML with plots, which loads nothing.

    Args:
        reference: The name of a model, or the folder that is served.
        out: The file to write.
        since: How far back: a timedelta, or text such as "7d".
        **options: See `monitor`.

    Raises:
        NotFound: The ledger has no answers of this model.
        Unavailable: The file cannot be written.
    """
    from bascule.monitoring.reporting import write_report

    overview = monitor(reference, since=since, **options)
    write_report(overview, Path(out))
    return overview


def alerts(*, model: str | None = None, resolved: bool = False) -> list[Alert]:
    """The alerts of the settings' catalogue, as `bascule alerts list` shows them.

    Args:
        model: Of this model alone.
        resolved: Resolved alerts too.
    """
    from bascule.app import open_alerts
    from bascule.settings import load_settings

    return open_alerts(load_settings()).alerts(resolved=resolved, model=model)


def _production(
    reference: Bundle | str | Path,
) -> tuple[Path, str, Callable[[str], Bundle | None]]:
    """The home with the ledger, the name of the model, and what opens its versions."""
    from bascule.control import versions_of
    from bascule.settings import load_settings

    named = str(reference.path.resolve() if isinstance(reference, Bundle) else reference)
    return load_settings().home, *versions_of(named, open_registry)


def check(
    bundle: Bundle | str | Path,
    criteria: Sequence[str] | None = None,
    *,
    test: Any = None,
    attributes: dict[str, Any] | None = None,
) -> GateReport:
    """Judge a bundle and record the verdict, as `bascule check` does.

    Args:
        bundle: A bundle, its folder, or a reference such as `good/1`.
        criteria: `[gates] criteria` of the settings if None. A check that leaves one of those out
            is a trial, and changes no verdict.
        test: `(X, y)` in place of the held-out rows of the bundle.
        attributes: Of the same rows, protected attributes that are no inputs, by name: arrays.

    Raises:
        Invalid: There are no criteria, or one does not apply to the model.
    """
    from bascule.app import open_judge
    from bascule.control import is_path, registered
    from bascule.documents import progress_line
    from bascule.release import check_and_record
    from bascule.settings import load_settings

    settings = load_settings()
    configured = settings.gates.criteria
    registry, version = open_registry(), None
    if isinstance(bundle, str) and not is_path(bundle):
        registry, version = registered(open_registry, bundle)
        bundle = load_folder(registry.path(version))
    elif not isinstance(bundle, Bundle):
        bundle = load_folder(bundle)
    with progress_line("check"):
        report, problem = check_and_record(
            bundle, configured if criteria is None else criteria, registry, version,
            configured=configured, test=test, now=datetime.now(UTC), by=user_name(),
            attributes=attributes, find_judge=partial(open_judge, settings),
        )  # fmt: skip
    if problem is not None:
        raise problem
    return report


def batch_model(model: Bundle | str | Path) -> tuple[Bundle, str, MonitoringRules, Path, Jobs]:
    """What a batch job needs of the settings; see `app.batch_model`; the home, and the jobs."""
    from bascule.app import batch_model as found, open_jobs
    from bascule.settings import load_settings

    settings = load_settings()
    return *found(settings, model), settings.home, open_jobs(settings)


def push(bundle: Bundle | str | Path, *, alias: str | None = None, reason: str = "") -> Version:
    """Put a bundle into the registry; the same bundle again is the version that it is already.

    Args:
        bundle: A bundle or its folder.
        alias: Points to the version afterwards, such as `champion`.
        reason: Why the alias moves, for the history.

    Raises:
        Refused: The alias may not point to it: its gates failed. It is pushed all the same.
    """
    registry = open_registry()
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    version = registry.push(path, by=user_name())
    if alias is not None:
        registry.set_alias(
            version.model, alias, version.number, by=user_name(), reason=reason
        )  # fmt: skip
    return version


def set_alias(version: Version | str, alias: str, *, reason: str = "") -> Event:
    """Point an alias to a version: `set_alias("good/1", "champion")`.

    Raises:
        NotFound: There is no such version.
        Refused: It is retired, or its gates failed.
    """
    registry = open_registry()
    found = registry.resolve(str(version))
    return registry.set_alias(found.model, alias, found.number, by=user_name(), reason=reason)


class Server:
    """A server of this process: it ends with the `with` block, with `stop`, or with Python.

    Attributes:
        url: Where predictions are answered.
        control_url: Where the control API is; its docs are at `/docs`.
        models: References of what is served.
    """

    def __init__(self, process: subprocess.Popen[bytes], announced: dict[str, Any]) -> None:
        self.url: str = announced["predictions"]
        self.control_url: str = announced["control"]
        self.models = [f"{one['model']}/{one['version']}" for one in announced["serving"]]
        self._end = weakref.finalize(self, end, process, _STOP_S)

    def client(self, model: str | None = None, **options: Any) -> Client:
        """A client of this server; see `bascule.Client`."""
        from bascule_client import Client

        return Client(self.url, model=model, **options)

    def stop(self) -> None:
        """Answer what is under way, and end. Stopping twice is fine."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.stop()

    def __repr__(self) -> str:
        state = "at " + self.url if self._end.alive else "stopped"
        return f"Server({', '.join(self.models)} {state})"


def serve(
    *models: Bundle | str | Path,
    port: int = 0,
    control_port: int = 0,
    workers: int | None = None,
    timeout_s: float = 120.0,
) -> Server:
    """Serve models beside this process, and return when they answer.

    In `with bascule.serve("good/1") as server:`, `server.client().predict(X)` asks it.

    Args:
        models: Bundles, their folders, or references: `good/1`, `good@champion`.
        port: For predictions; 0 takes a free one.
        control_port: For the control API; 0 takes a free one.
        workers: Processes that share the port; that of the settings if None.
        timeout_s: How long the start may take.

    Raises:
        BasculeError: What `bascule serve` says: a model is not there, or a port is taken.
        TimedOut: It did not answer in time.
    """
    if not models:
        raise Invalid("there is nothing to serve", hint='bascule.serve("good/1")')
    words = [str(one.path.resolve() if isinstance(one, Bundle) else one) for one in models]
    options = [f"--port={port}", f"--control-port={control_port}"]
    if workers is not None:
        options.append(f"--workers={workers}")
    command = [sys.executable, "-m", "bascule.cli", "serve", "--json", *options, "--", *words]
    with tempfile.TemporaryFile() as log:
        return Server(*start_announcing(command, log, timeout_s))
