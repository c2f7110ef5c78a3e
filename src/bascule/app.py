"""The composition root: settings in, wired objects out.

Command line, control API and batch assemble the same objects here, so that none of them opens a
registry or bounds a worker in its own way.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bascule.core import (
    BasculeError,
    Invalid,
    NotFound,
    library,
    load_named,
    masked,
    secret_in,
)
from bascule.settings import (
    CATALOGUES,
    OBJECTS,
    ModelSettings,
    ObjectiveSettings,
    RolloutSettings,
    ServingSettings,
    Settings,
    scheme_of,
)

if TYPE_CHECKING:
    import ssl

    from fastapi import FastAPI
    from sqlalchemy import Connection

    from bascule.batch import MonitoringRules
    from bascule.bundle import Bundle
    from bascule.catalogue import Catalogue, Requests
    from bascule.configuring import Books
    from bascule.control import Parts, Provider, Sessions
    from bascule.endpoints import Approve, Endpoints, EndpointStore
    from bascule.fleet import Fleet, TufRepository
    from bascule.jobs import Jobs
    from bascule.monitoring import Judge, JudgeOptions, Ledger, Outcomes, Terms, UsageAsked
    from bascule.monitoring.alerts import AlertStore, Finding, Source, Watcher
    from bascule.monitoring.alerts.sinks import Receiver
    from bascule.monitoring.alerts.sources import Objective, ServerFacts
    from bascule.monitoring.ledger import CallerCount, Usage
    from bascule.packing import CodeOptions
    from bascule.registry import CatalogueKeys, Registry, Version
    from bascule.registry.stores import Objects
    from bascule.release import Criterion
    from bascule.release.rollouts import Cohort, Rollout, Rollouts, Stage
    from bascule.serving import Limits, ModelSpec
    from bascule.serving.execution import Chain
    from bascule.serving.protocols import ChosenProtocols
    from bascule.serving.transports import Tls
    from bascule.serving.workers import Command, LedgerConfig, Supervisor
    from bascule.ship import Cluster

log = logging.getLogger(__name__)

_FIND_S = 120.0
"""For the control process to find a bundle that a caller wants loaded."""
_FLEET_SPAN = timedelta(days=30)
_RESTORING = ".restoring/ready"
"""Of the home; as `backups.restoring` names it, which is imported only where it is there."""
_SCRIBE_NICE = 10
_ROOM_BYTES = 1 << 20
"""Without so much space where the spool is, nothing is recorded."""


def tls_of(settings: Settings) -> Tls | None:
    """What the servers' ports are encrypted with; None for not at all.

    Raises:
        Invalid: One of certificate and key is set without the other.
    """
    chosen = settings.serving
    certificate, key = chosen.tls_certificate, chosen.tls_key
    if not certificate and not key:
        if chosen.tls_client_authority:
            raise Invalid(
                "serving.tls_client_authority is set, and the server has no certificate",
                hint="set serving.tls_certificate and serving.tls_key too",
            )
        return None
    if not certificate or not key:
        raise Invalid(
            f"serving.{'tls_key' if certificate else 'tls_certificate'} is missing",
            hint="a server needs a certificate and its key",
        )
    from bascule.serving.transports import Tls

    authority = chosen.tls_client_authority
    return Tls(Path(certificate), Path(key), Path(authority) if authority else None)


def client_tls_of(settings: Settings) -> ssl.SSLContext | None:
    """What an address is checked with where the settings give the server a certificate.

    No other certificate than that one is taken, so what names it has does not matter. Where clients
    must show one, it is shown as well: the authority may have signed it for both.
    """
    certificate = settings.serving.tls_certificate
    if not certificate:
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.serving.tls_client_authority:
        context.load_cert_chain(certificate, settings.serving.tls_key)
    return context


def callers_need_keys(settings: Settings) -> bool:
    """Whether a server with these settings asks its callers for keys; see `SecuritySettings`."""
    if settings.security.callers != "auto":
        return settings.security.callers == "keys"
    return not _is_loopback(settings)


def _is_loopback(settings: Settings) -> bool:
    """Whether the server listens on the loopback address alone."""
    from bascule.serving.transports import is_loopback

    return is_loopback(settings.serving.host)


def open_keys(settings: Settings) -> CatalogueKeys:
    """The keys of callers, where the settings keep the catalogue."""
    from bascule.registry import CatalogueKeys
    from bascule.registry.stores import Records

    return CatalogueKeys(Records(open_catalogue(settings)), settings.projects)


def cluster_of(settings: Settings) -> Cluster:
    """What is particular to the cluster that versions are shipped to."""
    from bascule.ship import Cluster

    return Cluster(
        **_shared(Cluster, settings.ship),
        egress_ports=_egress_ports(settings),
        providers=settings.serving.providers,
        has_bucket=_objects_at(settings).startswith("s3:"),
    )


def _egress_ports(settings: Settings) -> tuple[int, ...]:
    """The ports that servers with these settings connect to, beside those of name resolution.

    443 is always among them: buckets and sign-in. So is 5432 where the catalogue is no PostgreSQL
    here: pods share one.
    """
    receivers = settings.alerts.receivers.values()
    store = secret_in(settings.registry.store)
    addresses = [
        store if store.startswith("postgresql") else "postgresql://catalogue",
        os.environ.get("AWS_ENDPOINT_URL", ""), settings.serving.trace_endpoint,
        settings.console.oidc_issuer, *(one.url for one in receivers),
    ]  # fmt: skip
    usual = {"postgresql": 5432, "http": 80, "https": 443}
    ports = {443} | {one.port for one in receivers if one.kind == "mail"}
    for address in filter(None, addresses):
        parts = urlsplit(address)
        port = parts.port or usual.get(parts.scheme)
        if port:
            ports.add(port)
    return tuple(sorted(ports))


def protocols_of(serving: ServingSettings) -> ChosenProtocols:
    """The protocols that the workers speak."""
    from bascule.serving.protocols import choose_protocols

    return choose_protocols(
        serving.protocols, serving.vertex_health_route, serving.vertex_predict_route
    )


def limits_of(settings: Settings) -> Limits:
    """The bounds of a worker: the settings of `[serving]` that have the name of a bound."""
    from bascule.serving import Limits

    return Limits(**_shared(Limits, settings.serving))


def _shared(kind: Any, section: Any) -> dict[str, Any]:
    """The settings of a section that have the name of a field of `kind`."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(section)}
    return {name: getattr(section, name) for name in names}


def check_signature(settings: Settings, bundle: Path) -> None:
    """Raise `Untrusted` when keys are required and none of them signed the bundle.

    Or where claims are required, and no passport beside it makes them. For bundles that come from a
    folder; of those in a registry, it takes care itself.
    """
    chosen = settings.security
    if not chosen.required_keys:
        return
    from bascule.bundle.disk import PASSPORT, check_claims, read_statements, verify_bundle

    digest = verify_bundle(bundle, chosen.required_keys).manifest.digest
    check_claims(
        read_statements(bundle, PASSPORT), digest, chosen.required_keys, chosen.required_claims,
        about=str(bundle), now=datetime.now(UTC),
    )  # fmt: skip


def open_registry(settings: Settings) -> Registry:
    """The registry that `settings` name; nothing is created before the first push."""
    from bascule.registry import Registry
    from bascule.registry.stores import Records
    from bascule.release import Criterion

    chosen = settings.registry
    return Registry(
        Records(open_catalogue(settings), uses=[_needing]),
        open_objects(settings),
        require_gates=chosen.require_gates,
        criteria=[str(Criterion.parse(text)) for text in settings.gates.criteria],
        required_keys=settings.security.required_keys,
        required_claims=settings.security.required_claims,
    )


def open_objects(settings: Settings) -> Objects:
    """The bundles that `settings` name; nothing is created before the first push."""
    chosen = _objects_at(settings)
    opened: Objects = load_named(OBJECTS[scheme_of(chosen)])(chosen, settings.home)
    return opened


def _objects_at(settings: Settings) -> str:
    return secret_in(settings.registry.objects)


def _needing(connection: Connection, version: str) -> Iterator[str]:
    """What needs a version beside aliases, in words: plans, rollouts under way, schedules."""
    from bascule.endpoints import plans_needing
    from bascule.jobs import schedules_needing
    from bascule.release.rollouts import rollouts_needing

    yield from plans_needing(connection, version)
    yield from rollouts_needing(connection, version)
    yield from schedules_needing(connection, version)


def open_catalogue(settings: Settings, *, settles: bool = True) -> Catalogue:
    """The catalogue that `settings` name; nothing is created before the first push.

    A restore that was interrupted is ended first, unless `settles` is False.
    """
    from bascule.catalogue import Catalogue

    store = settings.registry.store
    catalogue = Catalogue(load_named(CATALOGUES[scheme_of(secret_in(store))])(store, settings.home))
    if settles:
        _end_restore(settings)
    return catalogue


def _end_restore(settings: Settings) -> None:
    """Finish or forget a restore of the home that was interrupted."""
    if (settings.home / _RESTORING).exists():
        from bascule.backups import settle

        settle(settings.home, open_catalogue(settings, settles=False))


def open_endpoints(settings: Settings) -> Endpoints:
    """The endpoints that the catalogue of the settings keeps."""
    from bascule.endpoints import Endpoints, EndpointStore

    return Endpoints(
        EndpointStore(open_catalogue(settings)),
        partial(open_registry, settings),
        serves_now=partial(_serves_now, settings),
    )


_SERVER_STARTS_S = 15.0


def _serves_now(settings: Settings, name: str) -> str:
    """The version that servers serve of a model: the one on this machine, or all, by their holds.

    Empty where none is known, or servers serve several.
    """
    from bascule.control import operations
    from bascule.operations import Remote
    from bascule_client.control import ControlClient

    registry = open_registry(settings)
    try:
        known = {str(one): one for one in registry.versions(name)}
    except NotFound:
        return ""
    with suppress(BasculeError):
        here = f"http://127.0.0.1:{settings.serving.control_port}"
        # A server that was started just now accepts connections, and answers when it is ready.
        client = ControlClient(
            here, key=os.environ.get("BASCULE_KEY", ""), timeout_s=_SERVER_STARTS_S
        )
        served = Remote(client).items(operations.SERVICES)
        found = next((f"{name}/{one.version}" for one in served if one.model == name), "")
        if found in known:
            return found
    held = [text for text, one in known.items() if registry.servers_of(one)]
    return held[0] if len(held) == 1 else ""


def open_rollouts(settings: Settings, approve: Approve | None = None) -> Rollouts:
    """The rollouts in the catalogue of the settings; by default for a user that may approve."""
    from bascule.endpoints import by_anybody
    from bascule.release.rollouts import Rollouts, RolloutStore

    return Rollouts(
        RolloutStore(open_catalogue(settings)), open_endpoints(settings),
        defaults=rollout_defaults(settings), prepare=partial(prepare_rollout, settings),
        approve=approve or by_anybody, open_ledger=partial(open_ledger, settings),
    )  # fmt: skip


def prepare_rollout(settings: Settings, rollout: Rollout) -> Rollout:
    """A rollout with the scales of its guards on outcomes; refused where one cannot be counted."""
    if not any(guard.is_on_outcomes or guard.part or guard.alike for guard in rollout.guards):
        return rollout
    from bascule.bundle import load
    from bascule.release.rollouts import Recording, prepare

    registry, chosen = open_registry(settings), settings.monitoring
    recording = Recording(
        _keeps_rows(settings), chosen.private, chosen.max_values_per_row,
        settings.serving.feature_store,
        {name: judge.share for name, judge in settings.judges.items()},
    )  # fmt: skip
    return prepare(
        rollout, lambda version: load(registry.path(version)), open_ledger(settings), recording
    )


def open_books(settings: Settings) -> Books:
    """What `bascule apply` compares a document with and writes to, in the settings' catalogue."""
    from bascule.configuring import Books
    from bascule.jobs import Schedules

    registry = open_registry(settings)
    return Books(
        open_rollouts(settings), lambda reference: str(registry.resolve(reference)),
        Schedules(open_catalogue(settings)), open_keys(settings), open_alerts(settings),
        datetime.now(UTC),
    )  # fmt: skip


def rollout_defaults(settings: Settings) -> dict[str, Any]:
    """What `[rollouts]` of the settings says otherwise than Bascule does, by field."""
    ours = asdict(RolloutSettings())
    chosen = asdict(settings.rollouts)
    return {name: value for name, value in chosen.items() if value != ours[name]}


def outcome_cohorts(
    settings: Settings, rollout: Rollout, stages: Sequence[Stage], now: datetime
) -> list[Cohort]:
    """The predictions of a rollout by their time, with the newest truths about them."""
    from bascule.release.rollouts import count_outcomes

    return count_outcomes(open_ledger(settings), rollout, stages, now)


def supervisor_of(settings: Settings, control: Command) -> Supervisor:
    """The supervisor of a server, not started.

    Args:
        settings: How to serve.
        control: What starts the control process; with `serving.multi_model` it is asked for the
            bundles that callers want loaded.

    Raises:
        Invalid: A setting contradicts another.
    """
    from bascule.serving import ModelSpec
    from bascule.serving.telemetry import RequestLogConfig
    from bascule.serving.workers import Addresses, ServingConfig, Supervisor

    chosen = settings.serving
    ledger = ledger_of(settings)
    made: Supervisor

    def find(name: str, folder: Path) -> ModelSpec:
        found = made.start_control().ask("find_named", _FIND_S, name=name, folder=str(folder))
        return ModelSpec.from_json(found)

    made = Supervisor(
        Addresses(
            chosen.host,
            chosen.port,
            grpc_port=None if chosen.grpc_port < 0 else chosen.grpc_port,
            unix_socket=Path(chosen.unix_socket) if chosen.unix_socket else None,
        ),
        ServingConfig(
            limits=limits_of(settings),
            tls=tls_of(settings),
            protocols=protocols_of(chosen),
            policies=policies_by_name(settings),
            request_log=RequestLogConfig(
                chosen.log, chosen.access_log, chosen.trace_endpoint, chosen.log_exception_texts
            ),
            allowed_hosts=chosen.allowed_hosts,
            ledger=ledger,
            outcomes_home=settings.home,
        ),
        workers=chosen.workers,
        needs_keys=callers_need_keys(settings),
        control=control,
        scribe=None if ledger is None else _scribe_of(settings),
        find=find if chosen.multi_model else None,
    )
    return made


def policies_of(chosen: ModelSettings) -> Chain:
    """The policies of a model; none where its settings ask for nothing."""
    from bascule.serving.execution import ResiliencePolicy, read_chain

    policy = ResiliencePolicy(**_shared(ResiliencePolicy, chosen))
    own = {} if policy == ResiliencePolicy() else {"resilience": policy}
    return own | dict(read_chain(chosen.policies))


def policies_by_name(settings: Settings) -> dict[str, Chain]:
    """The policies of `[serving.models.NAME]` and `[policies.NAME]`, by model or endpoint."""
    from bascule.serving.execution import read_chain, values_of_keys

    chains = {name: policies_of(chosen) for name, chosen in settings.serving.models.items()}
    for name, keys in settings.policies.items():
        chains[name] = {**chains.get(name, {}), **read_chain(values_of_keys(keys))}
    return chains


def ledger_of(settings: Settings) -> LedgerConfig | None:
    """What a server's workers record of answers; None for nothing.

    Where the home cannot be written, a server records nothing and serves.
    """
    from bascule.serving.workers import LedgerConfig

    chosen = settings.monitoring
    if chosen.ledger == "off":
        return None
    try:
        _check_room(settings.home)
    except OSError as error:
        log.warning("no answer is recorded: %s cannot be written: %s", settings.home, error)
        return None
    return LedgerConfig(
        settings.home,
        chosen.keep,
        chosen.max_rows_per_s,
        chosen.private,
        is_anonymous=not _keeps_rows(settings),
        max_values_per_row=chosen.max_values_per_row,
    )


def _keeps_rows(settings: Settings) -> bool:
    chosen = settings.monitoring.ledger
    return chosen == "on" or (chosen == "auto" and _is_loopback(settings))


def _check_room(home: Path) -> None:
    """Make the spool and write to it; raises OSError."""
    spool = home / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=spool) as file:
        os.posix_fallocate(file.fileno(), 0, _ROOM_BYTES)


def open_ledger(settings: Settings) -> Ledger:
    """The ledger of the home; with that of other hosts, where `registry.objects` is in S3."""
    from bascule.monitoring import Ledger
    from bascule.monitoring.ledger import connect_home

    _end_restore(settings)
    connect_home(settings.home, _objects_at(settings))
    return Ledger(settings.home)


def judge_of(settings: Settings, name: str) -> JudgeOptions:
    """A judge of the settings. Raises `NotFound`."""
    options = settings.judges.get(name)
    if options is None:
        raise NotFound(
            f"the settings have no judge {name!r}",
            hint=f"there are {', '.join(settings.judges) or 'none'}: sections [judges.NAME]",
        )
    return options


def open_judge(settings: Settings, name: str) -> Judge:
    """A judge to be asked. Raises `NotFound`, or `Invalid` where it generates no text."""
    from bascule.bundle import load
    from bascule.bundle.disk import generates_text
    from bascule.monitoring import Judge

    options, registry = judge_of(settings, name), open_registry(settings)
    bundle = load(registry.path(registry.resolve(options.model)))
    if not generates_text(bundle.signature):
        raise Invalid(
            f"judge {name}: {options.model} does not generate text", hint="name a model that does"
        )
    return Judge(bundle.program(), options.rubric)


def open_repository(settings: Settings, *, is_new: bool = False) -> TufRepository:
    """The signed repository of what is published to devices, which `is_new` or is there.

    Raises:
        NotFound: There is none; told without tuf, which most servers need not load.
        MissingExtra: tuf is not installed.
    """
    folder = settings.home / "edge"
    root = folder / "root.json"
    if not is_new and not root.exists():
        hint = f"bascule edge init, or copy {folder} from the home that has made it"
        raise NotFound("this home knows no repository of devices", hint=hint)
    library("tuf", "edge")
    from bascule.fleet import Keys, TufRepository
    from bascule.places import Folder, open_place

    chosen, own = settings.edge, Folder(folder / "repository")
    place = open_place(chosen.repository, "edge.repository") if chosen.repository else own
    return TufRepository(place, Keys(folder / "keys"), root, timestamp_days=chosen.timestamp_days)


def open_fleet(settings: Settings) -> Fleet:
    """The devices in the catalogue, and what they are offered."""
    from bascule.fleet import Fleet, RepositoryChannels

    registry = cache(partial(open_registry, settings))
    channels = RepositoryChannels(registry, cache(partial(open_repository, settings)))
    return Fleet(open_catalogue(settings), channels, registry)


def open_jobs(settings: Settings) -> Jobs:
    """The jobs in the catalogue."""
    from bascule.jobs import Jobs

    return Jobs(open_catalogue(settings))


def open_outcomes(settings: Settings) -> Outcomes:
    """The outcomes of the home."""
    from bascule.monitoring import Outcomes

    _end_restore(settings)
    return Outcomes(settings.home)


def _scribe_of(settings: Settings) -> Command:
    """What starts the process that writes the ledger."""
    from bascule.monitoring.ledger import CATALOGUE_VARIABLE, DAYS_KEPT_VARIABLE, connect_home
    from bascule.serving.workers import Command

    environment = {}
    _end_restore(settings)
    if connect_home(settings.home, _objects_at(settings)) is not None:
        store = settings.registry.store
        kind = CATALOGUES[scheme_of(secret_in(store))]
        environment[CATALOGUE_VARIABLE] = json.dumps([kind, store])
    _note_master(settings)
    if settings.privacy.retention_days:
        kept = dict(settings.privacy.retention_days)
        environment[DAYS_KEPT_VARIABLE] = json.dumps(kept)
    chosen = settings.monitoring
    figures = (int(chosen.max_gb * 1e9), chosen.retention_days)
    argv = (
        "nice", "-n", str(_SCRIBE_NICE),
        sys.executable, "-m", "bascule.monitoring.ledger", str(settings.home), *map(str, figures),
    )  # fmt: skip
    # Let through once it can act on it: one that is stopped while it starts takes in the spool too.
    return Command(argv, environment, blocked=frozenset({signal.SIGTERM}))


def _note_master(settings: Settings) -> None:
    keeps_texts = any(keys.get("keep_texts_percent") for keys in settings.policies.values())
    if not (keeps_texts or set(settings.monitoring.private.values()) & {"encrypt", "tokenise"}):
        return
    from bascule.monitoring.ledger import note_master

    note_master(settings.home, settings.privacy.master)


def control_parts(settings: Settings) -> Parts:
    """What a control process works with."""
    from bascule.control import Parts, Sessions, SettingsShown
    from bascule.endpoints import by_nobody

    @cache
    def keys() -> CatalogueKeys:  # opened late: keys that are taken over need no catalogue
        return open_keys(settings)

    @cache
    def requests() -> Requests:
        from bascule.catalogue import Requests

        return Requests(open_catalogue(settings))

    @cache
    def catalogue() -> Catalogue:
        return open_catalogue(settings)

    @cache
    def endpoints() -> EndpointStore:
        from bascule.endpoints import EndpointStore

        return EndpointStore(catalogue())

    def add_console(app: FastAPI) -> None:
        from bascule.console import add_console

        chosen = settings.console
        add_console(app, public_url=chosen.public_url, provider=provider_of(settings))

    return Parts(
        add_console=add_console,
        open_alerts=partial(open_alerts, settings),
        open_registry=partial(open_registry, settings),
        open_endpoints=endpoints,
        open_catalogue=catalogue,
        outcome_cohorts=partial(outcome_cohorts, settings),
        rollout_defaults=rollout_defaults(settings),
        prepare_rollout=partial(prepare_rollout, settings),
        open_rollouts=partial(open_rollouts, settings, by_nobody),
        open_keys=keys,
        open_requests=requests,
        home=settings.home,
        keys_stale_s=settings.security.keys_stale_s,
        check_signature=partial(check_signature, settings),
        tls=tls_of(settings),
        allowed_hosts=settings.serving.allowed_hosts,
        sessions=Sessions(catalogue, _session_lasts(settings), settings.projects),
        shown=SettingsShown(shown_settings(settings), partial(receivers_of, settings)),
        usage=terms_of(settings),
        review_rules=settings.reviews,
        open_fleet=cache(partial(open_fleet, settings)),
        protected=settings.audit.protected,
        approval_lasts=timedelta(hours=settings.audit.approval_hours),
    )


def terms_of(settings: Settings) -> Terms:
    """Projects, prices, and whether usage is recorded."""
    from bascule.monitoring import Terms

    mode = settings.monitoring.ledger
    why = f'usage is not recorded: the ledger keeps no rows (monitoring.ledger = "{mode}")'
    return Terms(settings.projects, settings.usage, "" if _keeps_rows(settings) else why)


def usage_by(settings: Settings, asked: UsageAsked) -> Usage:
    """Usage by the ledger of the home; see `read_usage`."""
    from bascule.monitoring import read_usage

    ledger, terms = open_ledger(settings), terms_of(settings)
    return read_usage(ledger, asked, terms, lambda: open_keys(settings).stored())


def pack_files(
    model: Path,
    *,
    train: Path | None,
    test: Path | None,
    target: list[str] | None,
    allow_pickle: bool,
    calibration: Path | None = None,
    code: Sequence[str] = (),
    options_of_code: CodeOptions | None = None,
    open_model: Callable[[str], Bundle] | None = None,
    **options: Any,
) -> Bundle:
    """A bundle of a model and of tables in files; the rest as of `packing.pack`.

    `open_model` opens the models of a composition, which is refused without it.
    """
    from bascule.batch import as_trained
    from bascule.packing import Composition, describes_generation, pack, read_model

    is_composition = model.suffix == ".toml" and not describes_generation(model)
    if is_composition and open_model is not None:
        fitted: Any = Composition(model, open_model)
    else:
        fitted = read_model(model, allow_pickle=allow_pickle, options=options_of_code, code=code)
    # Training rows may come without their truth, if held-out ones show that --target is right.
    is_told = bool(target) and test is None and calibration is None
    files = {"train": train, "test": test, "calibration": calibration}
    sets = read_sets(
        files, target, lambda what: what != "train" or is_told, partial(as_trained, fitted)
    )
    return pack(fitted, code=code, **sets, **options)


def read_sets(
    files: Mapping[str, Path | None], target: list[str] | None, needs_truth: Callable[[str], bool],
    changed: Callable[[Any], Any] = lambda rows: rows,
) -> dict[str, Any]:  # fmt: skip
    """Of the tables that are given, by the names of their options: rows, or rows and their truth.

    `changed` makes the inputs of a model of rows without truth.
    """
    from bascule.batch import read_rows, split_truth

    sets: dict[str, Any] = {}
    for what, path in files.items():
        if path is not None:
            rows, place = read_rows(path, f"--{what} table"), f"--{what} table {path.name}"
            inputs, truth = split_truth(rows, target, place, required=needs_truth(what))
            sets[what] = changed(inputs) if truth is None else (changed(inputs), truth)
    return sets


def batch_model(
    settings: Settings, model: Bundle | str | Path, found: Version | None = None
) -> tuple[Bundle, str, MonitoringRules]:
    """What a batch job needs: its bundle, the version's number, and what is recorded.

    The number is empty where the bundle is not named by its place in the registry.

    Args:
        settings: Name the registry.
        model: A bundle, its folder, or a reference.
        found: The version of the folder, where it was resolved elsewhere.
    """
    from bascule.batch import MonitoringRules
    from bascule.bundle import Bundle, load
    from bascule.bundle.disk import generates_text
    from bascule.control import is_path, registered, version_of

    if isinstance(model, str) and not is_path(model):
        registry, found = registered(partial(open_registry, settings), model)
        model = registry.path(found)
    bundle = model if isinstance(model, Bundle) else load(model)
    _note_master(settings)
    number = "" if found is None else str(found.number)
    chosen = settings.monitoring
    private: Mapping[str, str] = chosen.private
    if generates_text(bundle.signature):
        from bascule.serving.telemetry import rules_of

        private = rules_of(bundle.name) | {**private}
    rules = MonitoringRules(
        is_recorded=chosen.ledger != "off", version=number or version_of(bundle.digest),
        private=private, max_values_per_row=chosen.max_values_per_row,
        false_alarms_a_year=settings.alerts.false_alarms_a_year,
    )  # fmt: skip
    return bundle, number, rules


def _session_lasts(settings: Settings) -> timedelta:
    return timedelta(hours=settings.console.session_hours)


def provider_of(settings: Settings) -> Provider | None:
    """Where people sign in; None for links alone. Raises `Invalid` where its libraries lack."""
    chosen = settings.console
    if not chosen.oidc_issuer:
        return None
    from bascule.control import Provider, ProviderConfig, check_installed

    check_installed()
    return Provider(
        ProviderConfig(
            issuer=chosen.oidc_issuer, client_id=chosen.oidc_client_id,
            client_secret=chosen.oidc_client_secret, scopes=chosen.oidc_scopes,
            roles_claim=chosen.oidc_roles_claim, user_claim=chosen.oidc_user_claim,
            roles=chosen.roles,
        )
    )  # fmt: skip


def open_sessions(settings: Settings) -> Sessions:
    """The sessions of people, where the settings keep the catalogue."""
    from bascule.control import Sessions

    return Sessions(partial(open_catalogue, settings), _session_lasts(settings), settings.projects)


def shown_settings(settings: Settings) -> dict[str, dict[str, Any]]:
    """By section and name, what settings say, without secrets and addresses that hold one."""
    found: dict[str, dict[str, Any]] = {"": {"home": str(settings.home)}}
    for section in fields(settings):
        values = getattr(settings, section.name)
        if is_dataclass(values):
            found[section.name] = _shown(values)
    chosen = settings.registry
    found["projects"] = _shown(settings.projects)
    found["registry"] |= {"store": masked(chosen.store), "objects": masked(chosen.objects)}
    return found


def _shown(value: Any) -> Any:
    """A value as JSON, without what a `repr` leaves out."""
    if is_dataclass(value):
        return {one.name: _shown(getattr(value, one.name)) for one in fields(value) if one.repr}
    if isinstance(value, Mapping):
        return {name: _shown(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return list(map(_shown, value))
    return str(value) if isinstance(value, Path) else value


def open_alerts(settings: Settings) -> AlertStore:
    """The alerts, where the settings keep the catalogue."""
    from bascule.monitoring.alerts import AlertStore

    return AlertStore(open_catalogue(settings))


def _deprecated(settings: Settings) -> dict[str, list[Version]]:
    """Every model, with its versions in use that are deprecated."""
    registry = open_registry(settings)
    found: dict[str, list[Version]] = {model.name: [] for model in registry.models()}
    for version in registry.deprecated():
        found[version.model].append(version)
    return found


def callers_by_name(
    settings: Settings, model: str, version: str, since: datetime
) -> list[CallerCount] | None:
    """The callers of a version by the names of their keys; None where no rows are kept."""
    from bascule.monitoring.ledger import callers_of

    counts = callers_of(settings.home, model, version, since)
    if not counts or not any(count.caller for count in counts):
        return counts
    names = _names_of_keys(settings)
    return [replace(count, caller=names.get(count.caller, count.caller)) for count in counts]


def _names_of_keys(settings: Settings) -> dict[str, str]:
    return {key.id: key.name for key in open_keys(settings).stored()}


def usage_of(settings: Settings, version: Version) -> str:
    """Who calls a deprecated version since then, in words."""
    assert version.deprecated is not None
    since = version.deprecated.at
    return usage_said(callers_by_name(settings, version.model, str(version.number), since), since)


def usage_said(callers: Sequence[CallerCount] | None, since: datetime) -> str:
    """Who calls a version since then, in words."""
    from bascule.monitoring.alerts.sources import callers_said

    return f"since {since:%Y-%m-%d} {callers_said(callers)}"


def receivers_of(settings: Settings) -> list[Receiver]:
    """The receivers of notifications."""
    from bascule.monitoring.alerts.sinks import Receiver

    return [Receiver(name=name, **asdict(one)) for name, one in settings.alerts.receivers.items()]


def judge(settings: Settings, what: str, model: str, day: date, now: datetime) -> Sequence[Finding]:
    """The findings of a finished day of a model: `what` is of `sources.JUDGED`, or `fairness`."""
    from bascule.control import versions_of
    from bascule.monitoring.alerts import sources

    try:
        _, bundle_of = versions_of(model, cache(partial(open_registry, settings)))
    except NotFound:
        return []  # served from a folder: the registry has no baseline of it
    if what == "fairness":
        from bascule.release import fairness_findings

        criteria = _criteria_of_groups(settings)
        return fairness_findings(settings.home, model, bundle_of, criteria, now=now)
    budget = false_alarms_of(settings, what, model, now)
    return sources.JUDGED[what](settings.home, model, bundle_of, budget, day, now)


def false_alarms_of(settings: Settings, what: str, model: str, now: datetime) -> float:
    """A year: of a model's `performance`, or of the `drift` of each version of it."""
    chosen = settings.alerts
    if chosen.false_alarms_of == "version":
        return chosen.false_alarms_a_year
    from bascule.monitoring.drift import fleet_budget
    from bascule.monitoring.profiles import versions_since

    watched = versions_since(settings.home, (now - _FLEET_SPAN).date())
    whole, each = fleet_budget(chosen.false_alarms_a_year, model, watched, chosen.weights)
    return each if what == "drift" else whole


def _criteria_of_groups(settings: Settings) -> list[Criterion]:
    """The gates that are about fairness: production must meet them too."""
    from bascule.metrics import DISPARITIES
    from bascule.release import Criterion

    criteria = map(Criterion.parse, settings.gates.criteria)
    return [criterion for criterion in criteria if criterion.metric in DISPARITIES]


def objectives_of(settings: Settings) -> dict[str, Objective]:
    """The objectives of models, by name, in the units of the counters."""
    from bascule.monitoring.alerts.sources import Objective
    from bascule.serving.telemetry import BUCKETS_S

    def objective(chosen: ObjectiveSettings) -> Objective:
        if chosen.latency_ms is None:
            return Objective(chosen.availability)
        latency_s = chosen.latency_ms / 1e3
        bound_s = next(bound for bound in BUCKETS_S if bound >= latency_s)
        return Objective(chosen.availability, chosen.latency_share, bound_s)

    return {name: objective(each) for name, each in settings.alerts.objectives.items()}


def models_with(settings: Settings, *what: str) -> list[str]:
    """The sections `[policies.NAME]` that do this on suspicious queries."""
    key = "on_suspicious_queries"
    return [name for name, keys in settings.policies.items() if keys.get(key) in what]


def queries_source_of(settings: Settings, models: Sequence[str]) -> Source:
    """What finds callers that search for these models."""
    from bascule.bundle import load
    from bascule.monitoring.alerts.sources import QueriesSource
    from bascule.monitoring.ledger import Ledger

    def name_of(caller: str) -> str:
        return _names_of_keys(settings).get(caller, caller)

    return QueriesSource(
        Ledger(settings.home), models, lambda version: load(open_registry(settings).path(version)),
        settings.alerts.false_alarms_a_year, name_of,
    )  # fmt: skip


def _ending(settings: Settings) -> Mapping[str, datetime]:
    """See `TufRepository.ending`; empty for a home without a repository."""
    with suppress(NotFound):
        return open_repository(settings).ending()
    return {}


def watcher_of(
    settings: Settings,
    server: tuple[str, Callable[[], ServerFacts]] | None,
    judge: Callable[[str, str, date, datetime], Sequence[Finding]],
    note_away: Callable[[bool], None] = lambda _is_away: None,
) -> Watcher | None:
    """The watcher of a control process, not started; None where the settings ask for none.

    Args:
        settings: What is watched, and which receivers are notified.
        server: The place of the server beside the process, and what reads its counters; None for
            a process without one.
        judge: Judges a finished day of a model; see the function of this name.
        note_away: Is called when the catalogue goes away and when it is back.
    """
    chosen, guarded = settings.alerts, models_with(settings, "alert", "throttle")
    if chosen.watch == "off" or (chosen.watch == "auto" and not chosen.receivers and not guarded):
        return None
    from bascule.batch import Runs, facts_of_runs, facts_of_schedules
    from bascule.jobs import Jobs, Schedules
    from bascule.monitoring.alerts import (
        AlertStore,
        Route,
        Routing,
        Rules,
        Watcher,
        Watching,
        sources,
    )
    from bascule.monitoring.ledger import Ledger
    from bascule.release.rollouts import RolloutStore

    home, registry = settings.home, cache(partial(open_registry, settings))
    limits = sources.HealthLimits(
        chosen.error_share, chosen.refused_share, chosen.latency_p99_ms / 1e3
    )
    place, local, shared = "", list[Any](), list[Any]()
    if server is not None:
        place, read = server
        local.append(sources.HealthSource(read, limits, place))
        local.append(sources.ObjectiveSource(read, objectives_of(settings), place))
        runs = Runs(Jobs(open_catalogue(settings)))
        local.append(sources.BatchSource(lambda _now: facts_of_runs(runs.of_host()), place))
    if ledger_of(settings) is not None:
        if server is not None:
            local += [
                sources.LedgerSource(home, place),
                sources.SilenceSource(partial(sources.rows_by_hour, home), place),
            ]
        days = partial(sources.finished_days, home)
        daily = [*sources.JUDGED, *["fairness"] * bool(_criteria_of_groups(settings))]
        shared += [sources.DailySource(what, days, partial(judge, what)) for what in daily]
        if guarded:
            shared.append(queries_source_of(settings, guarded))
        if chosen.losses:
            shared.append(sources.LossSource(Ledger(home), chosen.false_alarms_a_year))
    catalogue = open_catalogue(settings)
    shared.append(
        sources.BatchSource(lambda now: facts_of_schedules(Schedules(catalogue).list(), now))
    )
    shared.append(
        sources.SunsetSource(partial(_deprecated, settings), partial(callers_by_name, settings))
    )
    shared.append(sources.RolloutSource(RolloutStore(catalogue).troubles))
    shared.append(sources.SignatureSource(partial(_ending, settings)))
    shared.append(sources.ReceiverSource(AlertStore(catalogue).failing, chosen.receivers))
    steady = ("health", "objectives", "ledger", "receivers")
    watching = Watching(
        place=place,
        local=local,
        shared=shared,
        receivers=receivers_of(settings),
        rules=Rules(
            dict.fromkeys(steady, chosen.for_s),
            dict.fromkeys(steady, chosen.keep_firing_s) | {sources.QUERIES_SOURCE: 3_600.0},
            chosen.repeat_s,
        ),
        routing=Routing(
            tuple(chosen.receivers),
            tuple(Route(**asdict(one)) for one in chosen.routes),
            chosen.public_url,
        ),
        contacts=partial(sources.contacts_of, registry),
        note_away=note_away,
        round_s=chosen.every_s,
    )
    return Watcher(catalogue, watching)
