"""The front door: bundles get numbers, names point to them, and every move is written down.

The rules of this module: nothing is copied before it is verified, nothing is named before it is
copied, and a decision is made inside the transaction that acts on it. Where keys are required, a
bundle that none of them signed does not come in, is not pointed to, and is not handed out for use:
that is kept here, below every caller, so that none of them can forget it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.bundle.disk import (
    CARD,
    ENVIRONMENT,
    MANIFEST,
    PASSPORT,
    Manifest,
    Statement,
    Verified,
    check_claims,
    digest_of,
    read_file,
    read_manifest,
    signature_beside,
    statements_by_file,
    verify_bundle,
)
from bascule.bundle.statements import non_finite_answers
from bascule.core import (
    Conflict,
    Invalid,
    NotFound,
    Reference,
    Refused,
    Scratch,
    Untrusted,
    canonical_json,
    check_name,
)
from bascule.registry.collecting import collect as collect_garbage, drop_holds, holding, take_holds
from bascule.registry.differences import Change, Facts, differences, side_by_side
from bascule.registry.holding import Garbage, Marked, is_abandoned
from bascule.registry.oci import Cargo, read_archive, write_archive
from bascule.registry.search import parse_search
from bascule.registry.versions import (
    ANYTHING,
    Alias,
    Check,
    Deprecation,
    Event,
    Expectation,
    Found,
    Model,
    Named,
    Retirement,
    Version,
    check_expected,
    check_is_in_use,
    check_may_be_aliased,
    check_may_be_retired,
    check_statement,
    check_sunset,
    check_tag,
    choose_newest,
    models_table,
    no_alias,
    no_model,
    no_version,
    summary_of_gates,
)

if TYPE_CHECKING:
    from bascule.registry.stores import Objects, Records, Transaction

_PUSH_HOLD = timedelta(hours=1)
_REMOVAL_WAIT_S = 30.0
_MAX_TRIES = 3
_MAX_GRACE_S = 366 * 86_400.0


def open_registry(
    home: Path,
    *,
    require_gates: bool = False,
    criteria: Sequence[str] = (),
    required_keys: Sequence[Path] = (),
    required_claims: Sequence[str] = (),
) -> Registry:
    """The registry in the folder `home`: SQLite and files. Only `push` creates it.

    Args:
        home: The folder; it need not exist.
        require_gates: Whether an alias may only point to versions that were checked.
        criteria: What they must have been checked for then, as criteria print themselves.
        required_keys: Files of public keys, one of which must have signed what is used.
        required_claims: What a passport by one of these keys must claim of what is used.
    """
    from bascule.catalogue import Catalogue, SqliteDatabase
    from bascule.registry.stores import Files, Records

    return Registry(
        Records(Catalogue(SqliteDatabase(home / "catalogue.db"))),
        Files(home / "objects"),
        require_gates=require_gates,
        criteria=criteria,
        required_keys=required_keys,
        required_claims=required_claims,
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Registry:
    """Models, their versions, and the aliases that move between them.

    Every name that is not there is a `NotFound` which says what is; reading where there is no
    registry is one too, and creates nothing.
    """

    def __init__(
        self,
        records: Records,
        objects: Objects,
        *,
        require_gates: bool = False,
        criteria: Sequence[str] = (),
        required_keys: Sequence[Path] = (),
        required_claims: Sequence[str] = (),
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._records = records
        self._objects = objects
        self._require_gates = require_gates
        self._criteria = tuple(criteria)
        self._required_keys = tuple(required_keys)
        self._required_claims = tuple(required_claims)
        self._vouched_for: set[str] = set()
        self._clock = clock

    def _repr_html_(self) -> str:
        from bascule.documents import notebook

        try:
            return notebook(models_table(self.models()))
        except NotFound:  # nothing was pushed, so there is no catalogue yet
            return notebook(models_table(()))

    def push(self, bundle_path: Path, *, by: str) -> Version:
        """Keep a copy of a bundle and give it the next number of its model.

        Pushing the same bundle again gives the version that it has; statements that were added to
        it since are taken in, and files of the copy that were damaged are replaced. A verdict
        among them counts as brought by the user that pushes, and as a pass only until the
        registered version is checked.

        Raises:
            NotFound: There is no bundle at `bundle_path`.
            Untrusted: A byte of it was altered, or keys are required and none of them signed it, or
                a verdict beside it lies in the future. Nothing is kept.
            Refused: It has a version, which was retired; or it answers NaN to its own held-out
                rows, and does not declare that.
        """
        digest, manifest = digest_of(bundle_path), read_manifest(bundle_path)
        _refuse_non_finite(bundle_path, manifest, "the model")
        now = self._clock()
        beside = [
            check_statement(found, now=now, file=file)
            for file, found in statements_by_file(bundle_path).items()
        ]
        statements = [
            *sorted(beside, key=lambda found: (found.at, found.file_name)),
            *signature_beside(bundle_path, at=now, by=by),
        ]
        if self._required_keys and self._vouched(bundle_path).manifest.digest != digest:
            raise Untrusted(f"{bundle_path} was changed while it was verified")
        self._records.create()
        with self._records.write() as book:
            own = book.identity()
            _refuse_retired(_find_digest(book, manifest.name, digest))
        self._objects.owner(own)
        for _ in range(_MAX_TRIES):
            pushed = self._push_once(bundle_path, digest, manifest, statements, by)
            if pushed is not None:
                return pushed
        raise Conflict(
            f"the files of {digest} were removed again and again while they were pushed",
            hint="do not run bascule gc --grace 0 in a loop",
        )

    def _push_once(
        self,
        bundle_path: Path,
        digest: str,
        manifest: Manifest,
        statements: Sequence[Statement],
        by: str,
    ) -> Version | None:
        """None where its files were collected in between, because the hold ran out."""
        holder = f"push {uuid.uuid4()}"
        with holding(
            self._records, digest, holder, lasts=_PUSH_HOLD, wait_s=_REMOVAL_WAIT_S,
            clock=self._clock,
        ):  # fmt: skip
            self._objects.put(digest, bundle_path, files_to_keep(bundle_path, digest, manifest))
            for statement in statements:
                self._lay_beside(statement)
            with self._records.write() as book:
                book.lock_model(manifest.name, at=self._clock())
                book.lock_object(digest, at=self._clock())
                if holder not in {hold.holder for hold in book.holds(digest)}:
                    return None
                book.drop_hold(digest, holder)
                book.put_object(digest, Marked("kept", self._clock()))
                version = _find_digest(book, manifest.name, digest)
                _refuse_retired(version)
                if version is None:
                    version = book.add_version(manifest.name, digest, at=self._clock(), by=by)
                    book.add_event(self._event("pushed", version, by=by))
                for statement in statements:
                    self._take_in(book, statement, brought_by=by)
                return _get_version(book, version.model, version.number)

    def resolve(self, reference: Reference | str, *, retired: bool = False) -> Version:
        """The version that a reference means.

        A bare name means the newest version in use whose gates have not failed; a number or an
        alias means that version, also if its gates failed.

        Args:
            reference: As people write it, or parsed.
            retired: Whether a number may mean a version that was retired.

        Raises:
            NotFound: The model, the number or the alias is not there.
            Refused: The version was retired, and why; or a bare name, and every version was
                retired or has failed its gates.
        """
        wanted = Reference.parse(reference) if isinstance(reference, str) else reference
        with self._records.read() as book:
            if wanted.number is not None:
                found = _get_version(book, wanted.model, wanted.number)
                return found if retired else check_is_in_use(found)
            if wanted.alias is not None:
                alias = _get_alias(book, wanted.model, wanted.alias)
                return _get_version(book, wanted.model, alias.number)
            _check_model(book, wanted.model)
            return choose_newest(wanted.model, book.versions(wanted.model))

    def _version_of(self, version: Named) -> Version:
        return version if isinstance(version, Version) else self.resolve(version)

    def path(self, version: Named) -> Path:
        """The folder of a version's bundle, for use; read-only, and its manifest verified.

        Raises:
            NotFound: The version, or its files, are not there.
            Untrusted: The manifest is not the one that was pushed, or keys are required and none
                of them signed it, or no passport makes the claims that are required.
        """
        found = self._version_of(version)
        path = self._objects.path(found.digest)
        self._check_is_vouched_for(found, path)
        if self._required_claims:
            with self._records.read() as book:
                self._check_claims(book, found)
        return path

    def path_to_look_at(self, version: Named) -> Path:
        """The same for reading its records only, which needs no signature.

        Raises:
            NotFound: The version, or its files, are not there.
            Untrusted: The manifest is not the one that was pushed.
        """
        found = self._version_of(version)
        return self._objects.path(found.digest)

    def _check_claims(self, book: Transaction, version: Version) -> None:
        # At each use: passports expire.
        check_claims(
            book.statements(version.digest, PASSPORT) if self._required_claims else (),
            version.digest, self._required_keys, self._required_claims,
            about=str(version), now=self._clock(),
        )  # fmt: skip

    def _check_is_vouched_for(self, version: Version, path: Path) -> None:
        # What was vouched for once stays so: a digest stands for the same bytes for ever.
        if not self._required_keys or version.digest in self._vouched_for:
            return
        self._who_vouches_for(version, path)

    def _who_vouches_for(self, version: Version, path: Path) -> Verified:
        try:
            verified = self._vouched(path)
        except Untrusted as problem:
            raise Untrusted(
                f"{version} may not be used: {problem.message}",
                hint="sign the bundle with one of security.required_keys, and push it again",
                model=version.model,
                number=version.number,
            ) from None
        self._vouched_for.add(version.digest)
        return verified

    def _vouched(self, path: Path) -> Verified:
        """A bundle that one of the keys signed; raises `Untrusted`."""
        return verify_bundle(path, self._required_keys)

    def model_names(self) -> list[str]:
        """The names of all models, in order; much quicker than `models`."""
        with self._records.read() as book:
            return list(book.models())

    def models(self, names: Sequence[str] | None = None) -> list[Model]:
        """Every model, by name; of these names alone if given."""
        with self._records.read() as book:
            summaries = []
            for name in book.models() if names is None else names:
                versions = book.versions(name)
                if versions:
                    summaries.append(
                        Model(name, len(versions), _newest(versions), dict(book.aliases(name)))
                    )
            return summaries

    def versions(self, model: str) -> list[Version]:
        """The versions of a model, the newest last."""
        with self._records.read() as book:
            _check_model(book, model)
            return list(book.versions(model))

    def aliases(self, model: str) -> dict[str, Alias]:
        """The aliases of a model, by name."""
        with self._records.read() as book:
            _check_model(book, model)
            return dict(book.aliases(model))

    def alias(self, model: str, alias: str) -> Alias:
        """One alias; raises `NotFound`."""
        with self._records.read() as book:
            return _get_alias(book, model, alias)

    def history(self, model: str, *, latest: int | None = None) -> list[Event]:
        """What happened to a model, the latest last: all, or so many of the latest events."""
        with self._records.read() as book:
            _check_model(book, model)
            return list(book.events(model, latest))

    def statements(self, version: Named, kind: str | None = None) -> list[Statement]:
        """What has been said about a version, the latest last."""
        found = self._version_of(version)
        with self._records.read() as book:
            return list(book.statements(found.digest, kind))

    def checks(self, version: Named) -> list[Check]:
        """The checks of a version that count, in the order in which the registry learnt of them."""
        found = self._version_of(version)
        with self._records.read() as book:
            return list(book.checks(found.digest))

    def check_may_serve(self, version: Version, endpoint: str, *, is_return: bool = False) -> None:
        """Raise as `set_alias` does, where no alias may point to a version; also after its end.

        And, but for a return to an earlier plan, where it answers NaN to its own held-out rows and
        does not declare that: `push` did not look in earlier releases.
        """
        said = version.deprecated
        if said is not None and said.has_ended(self._clock()):
            raise Refused(
                f"endpoint {endpoint!r} may not serve {version}, whose sunset was "
                f"{said.sunset:%Y-%m-%d}",
                hint=f"deploy {said.successor or 'another version'}, or bascule deprecate "
                f"{version} --undo",
            )
        if not is_return:
            path = self.path_to_look_at(version)
            manifest = read_manifest(path, verify=False)
            _refuse_non_finite(path, manifest, f"endpoint {endpoint!r} may not serve {version}: it")
        is_vouched_for = self._vouches_of(version)
        with self._records.read() as book:
            check_may_be_aliased(
                version,
                endpoint,
                checks=book.checks(version.digest),
                require_gates=self._require_gates,
                criteria=self._criteria,
                is_vouched_for=is_vouched_for,
                about=f"endpoint {endpoint!r} may not serve {version}",
            )
            self._check_claims(book, version)

    def _vouches_of(self, wanted: Version | Reference) -> Callable[[Statement], bool] | None:
        if not self._required_keys:
            return None
        found = wanted if isinstance(wanted, Version) else self.resolve(wanted)
        return self._who_vouches_for(found, self._objects.path(found.digest)).covers

    def set_alias(
        self,
        model: str,
        alias: str,
        number: int,
        *,
        by: str,
        reason: str = "",
        expected: int | Expectation | None = ANYTHING,
    ) -> Event:
        """Point an alias to a version; all see the old one or the new one, never neither.

        Args:
            model: The model.
            alias: The alias, which need not exist.
            number: The version that it is to point to.
            by: The user that moves it.
            reason: Why, for the history.
            expected: Move only if it points to this number now; None: only if it is new.

        Returns:
            The move, with where it pointed before. Where it points there already, nothing is
            written, and the event says from that number to that number.

        Raises:
            NotFound: There is no such model or version.
            Refused: The version failed its gates; or where checks are required, it is unchecked,
                or its check did not judge all the criteria, or is unsigned.
            Untrusted: Keys are required, and none of them signed it; or claims, and no passport
                makes them.
            Conflict: It does not point where `expected` says; nothing is moved.
        """
        check_name(alias, what="alias")
        # Before the transaction: reading a whole bundle must not keep others waiting, and a
        # signature is never removed.
        is_vouched_for = self._vouches_of(Reference(model, number=number))
        with self._records.write() as book:
            version = check_is_in_use(self._lock_version(book, model, number))
            check_may_be_aliased(
                version,
                alias,
                checks=book.checks(version.digest),
                require_gates=self._require_gates,
                criteria=self._criteria,
                is_vouched_for=is_vouched_for,
            )
            self._check_claims(book, version)
            before = book.aliases(model).get(alias)
            check_expected(model, alias, before, expected)
            event = self._event(
                "alias_moved",
                version,
                by=by,
                reason=reason,
                alias=alias,
                from_number=before.number if before else None,
                to_number=number,
            )
            if event.from_number != number:
                book.put_alias(Alias(model, alias, number, event.at))
                book.add_event(event)
            return event

    def drop_alias(
        self,
        model: str,
        alias: str,
        *,
        by: str,
        reason: str = "",
        expected: int | Expectation | None = ANYTHING,
    ) -> Event:
        """Take an alias away; its history stays.

        Raises:
            NotFound: There is no such alias.
            Conflict: It does not point where `expected` says; nothing is changed.
        """
        with self._records.write() as book:
            _check_model(book, model)
            book.lock_model(model, at=self._clock())
            before = _get_alias(book, model, alias)
            check_expected(model, alias, before, expected)
            event = self._event(
                "alias_dropped",
                _get_version(book, model, before.number),
                by=by,
                reason=reason,
                alias=alias,
                from_number=before.number,
            )
            book.drop_alias(model, alias)
            book.add_event(event)
            return event

    def tags(self, version: Named) -> dict[str, str]:
        """What a version is tagged with."""
        found = self._version_of(version)
        with self._records.read() as book:
            return dict(book.tags(found.model, found.number))

    def set_tag(self, version: Named, key: str, value: str | None, *, by: str) -> Event:
        """Tag a version, or untag it where `value` is None; see `change_tags`."""
        return self.change_tags(version, {key: value}, by=by)[0]

    def change_tags(
        self,
        version: Named,
        changes: Mapping[str, str | None],
        *,
        by: str,
        expected: Mapping[str, str] | None = None,
    ) -> list[Event]:
        """Set tags, and unset those whose value is None: all of them or none.

        A tag that has its value already is no change.

        Args:
            version: The version.
            changes: The new value by key.
            by: The user that changes them.
            expected: Change them only if these are the tags now; None for no condition.

        Raises:
            NotFound: There is no such version, or no tag to unset.
            Invalid: A tag is not allowed.
            Conflict: The tags are not the expected ones.
        """
        for key, value in changes.items():
            check_tag(key, value)
        found = self._version_of(version)
        with self._records.write() as book:
            book.lock_model(found.model, at=self._clock())
            before = dict(book.tags(found.model, found.number))
            if expected is not None and before != expected:
                raise Conflict(
                    f"the tags of {found} were changed meanwhile",
                    hint="read them again, then decide again",
                )
            return [
                self._change_tag(book, found, key, before.get(key), value, by)
                for key, value in changes.items()
            ]

    def _change_tag(
        self,
        book: Transaction,
        version: Version,
        key: str,
        before: str | None,
        value: str | None,
        by: str,
    ) -> Event:
        if value is None and before is None:
            raise NotFound(f"{version} has no tag {key!r}", hint=f"bascule show {version}")
        kind = "tag_unset" if value is None else "tag_set"
        event = self._event(kind, version, by=by, key=key, from_value=before, to_value=value)
        if before == value:
            return event
        if value is None:
            book.drop_tag(version.model, version.number, key)
        else:
            book.put_tag(version.model, version.number, key, value)
        book.add_event(event)
        return event

    def search(self, text: str, *, limit: int = 100) -> list[Found]:
        """The versions that meet every term of `text`, the latest pushed first.

        Raises:
            Invalid: A term cannot be read; see `bascule.registry.search`.
        """
        terms = parse_search(text, now=self._clock())
        if limit < 1:
            raise Invalid(f"limit: {limit} is not >= 1", hint="ask for 1 or more")
        with self._records.read() as book:
            return [
                Found(
                    version,
                    dict(book.tags(version.model, version.number)),
                    dict(book.metrics(version.digest)),
                )
                for version in book.search(terms, limit)
            ]

    def compare(self, before: Named, after: Named) -> list[Change]:
        """What sets two versions apart; see `bascule.registry.differences`."""
        return differences(self._facts(before), self._facts(after))

    def side_by_side(self, before: Named, after: Named) -> list[Change]:
        """The same, with what is equal in both."""
        return side_by_side(self._facts(before), self._facts(after))

    def _facts(self, reference: Named) -> Facts:
        version = reference if isinstance(reference, Version) else self.resolve(reference)
        path = self._objects.path(version.digest)
        manifest = read_manifest(path, verify=False)
        environment = ""
        if ENVIRONMENT in manifest.files:
            environment = read_file(path, manifest, ENVIRONMENT).decode(errors="replace")
        return Facts(manifest, environment, self.statements(version))

    def retire(self, model: str, number: int, *, by: str, reason: str) -> Version:
        """Take a version out of use: it resolves no more, and its number is never used again.

        Raises:
            Invalid: There is no reason.
            NotFound: There is no such version.
            Refused: An alias points to it; or a plan (arm, fallback, shadow) or a rollout under way
                needs it.
            Conflict: It was retired before.
        """
        with self._records.write() as book:
            version = self._lock_version(book, model, number)
            if version.retired is not None:
                raise Conflict(
                    f"{version} was retired before: {version.retired.reason}",
                    hint=f"bascule history {model}",
                )
            check_may_be_retired(
                version, reason, book.aliases(model).values(), book.needed_by(str(version))
            )
            book.put_retirement(model, number, Retirement(self._clock(), by, reason.strip()))
            book.add_event(self._event("retired", version, by=by, reason=reason.strip()))
            return _get_version(book, model, number)

    def restore(self, model: str, number: int, *, by: str, reason: str = "") -> Version:
        """Take a retired version back into use. Files that were collected have to be pushed again.

        Raises:
            NotFound: There is no such version.
            Conflict: It was not retired, or its files are being removed at this moment.
        """
        with self._records.write() as book:
            version = self._lock_version(book, model, number)
            if version.retired is None:
                raise Conflict(f"{version} is not retired", hint=f"bascule show {version}")
            marked = book.lock_object(version.digest, at=self._clock())
            if marked.state == "removing" and not is_abandoned(marked, now=self._clock()):
                raise Conflict(
                    f"the files of {version} are being removed at this moment",
                    hint="try again in a moment, then push the bundle again",
                )
            book.put_object(version.digest, Marked("kept", self._clock()))
            book.put_retirement(model, number, None)
            book.add_event(self._event("restored", version, by=by, reason=reason))
            return _get_version(book, model, number)

    def deprecate(
        self,
        model: str,
        number: int,
        *,
        by: str,
        sunset: datetime | None = None,
        successor: str = "",
        reason: str = "",
    ) -> Version:
        """Announce that a version will go away. It answers until its sunset, and says so.

        Args:
            model: The model.
            number: The version.
            by: The user.
            sunset: From then on servers answer 410 for the version; None for no date yet.
            successor: The version to use instead: `MODEL/NUMBER`, or another reference.
            reason: Why, for the history and for callers.

        Raises:
            NotFound: There is no such version, or no such successor.
            Invalid: The sunset is in the past, or the version is its own successor.
            Refused: It was retired, or the successor was.
        """
        check_sunset(self.resolve(Reference(model, number=number)), sunset, now=self._clock())
        after = str(self.resolve(successor)) if successor else ""
        with self._records.write() as book:
            version = check_is_in_use(self._lock_version(book, model, number))
            if after == str(version):
                raise Invalid(f"{version} cannot be its own successor", hint="name another version")
            said = Deprecation(self._clock(), by, reason.strip(), sunset, after)
            book.put_deprecation(model, number, said)
            event = self._event("deprecated", version, by=by, reason=said.reason)
            book.add_event(replace(event, to_value=said.terms))
            return _get_version(book, model, number)

    def undeprecate(self, model: str, number: int, *, by: str, reason: str = "") -> Version:
        """Withdraw a deprecation.

        Raises:
            NotFound: There is no such version.
            Conflict: It is not deprecated.
        """
        with self._records.write() as book:
            version = self._lock_version(book, model, number)
            if version.deprecated is None:
                raise Conflict(f"{version} is not deprecated", hint=f"bascule show {version}")
            book.put_deprecation(model, number, None)
            book.add_event(self._event("undeprecated", version, by=by, reason=reason))
            return _get_version(book, model, number)

    def deprecated(self) -> list[Version]:
        """The versions in use that are deprecated, of every model."""
        with self._records.read() as book:
            return list(book.deprecated())

    def _lock_version(self, book: Transaction, model: str, number: int) -> Version:
        _check_model(book, model)
        book.lock_model(model, at=self._clock())
        return _get_version(book, model, number)

    def export(self, version: Named, target: Path, *, overwrite: bool = False) -> str:
        """Write a version, and what has been said about it, into one file.

        Returns:
            The digest of its OCI manifest; see `bascule.registry.oci`.

        Raises:
            Conflict: There is a file already, and `overwrite` is False.
            Untrusted: The registry's own files were altered.
        """
        found = self._version_of(version)
        path = self._objects.path(found.digest)
        read_manifest(path)
        cargo = Cargo(found.model, found.number, found.pushed_at, path, self.statements(found))
        return write_archive(cargo, target, overwrite=overwrite)

    def import_archive(self, source: Path, *, by: str, model: str | None = None) -> Version:
        """Push the version in a file that `export` wrote, here or elsewhere.

        It gets the next number of its model here, or the one that it has already.

        Args:
            source: The file.
            by: The user that pushes it.
            model: The model that it must be a version of; None for any.

        Raises:
            NotFound: There is no such file.
            Invalid: It is a version of another model.
            Untrusted: It is something else, or a byte of it was altered, or keys are required here
                and none of them signed it. Nothing is kept.
            Refused: It has a version here, which was retired.
        """
        with Scratch("bascule-import-") as folder:
            draft = folder / "bundle"
            draft.mkdir()
            read_archive(source, draft)
            name = read_manifest(draft, verify=False).name
            if model not in (None, name):
                raise Invalid(
                    f"the bundle is a version of {name!r}, and not of {model!r}",
                    hint=f"push it to {name}",
                )
            return self.push(draft, by=by)

    def hold(self, digests: Iterable[str], holder: str, *, lasts_s: float) -> None:
        """Say that `holder` uses these bundles, for `lasts_s` unless it says so again.

        Bundles that were never pushed are passed over.

        Raises:
            Conflict: One of them is being removed at this moment.
            NotFound: There is no registry.
        """
        lasts = timedelta(seconds=lasts_s)
        with self._records.read() as book:
            known = [digest for digest in digests if book.versions_of(digest)]
        if known:
            take_holds(self._records, known, holder, lasts=lasts, clock=self._clock)

    def servers_of(self, version: Version) -> list[str]:
        """The servers that serve the bundle of a version, as `HOST PROCESS`; known within 30 s."""
        with self._records.read() as book:
            holds = book.holds(version.digest)
        now = self._clock()
        return sorted(
            hold.holder.removeprefix("server ")
            for hold in holds
            if hold.until > now and hold.holder.startswith("server ")
        )

    def release(self, digests: Iterable[str], holder: str) -> None:
        """Say that `holder` uses these bundles no more."""
        drop_holds(self._records, digests, holder)

    def collect(self, *, by: str, grace_s: float = 3_600.0, dry_run: bool = False) -> list[Garbage]:
        """Give back the space of bundles that no version in use, alias, push or server needs.

        What is found is marked; what has been marked for `grace_s` by an earlier call, and still
        is not needed, is removed. A `dry_run` only says what the call would do.

        Raises:
            NotFound: There is no registry.
            Refused: The objects belong to another catalogue.
        """
        if not 0 <= grace_s <= _MAX_GRACE_S:
            raise Invalid(f"grace: {grace_s:g} s is not between 0 and {_MAX_GRACE_S:g} s")
        return collect_garbage(
            self._records, self._objects, grace=timedelta(seconds=grace_s), dry_run=dry_run,
            by=by, clock=self._clock,
        )  # fmt: skip

    def add_statement(
        self,
        version: Version | str,
        kind: str,
        body: Mapping[str, Any],
        *,
        at: datetime,
        by: str,
    ) -> Statement:
        """Keep a statement about a version, or about a digest (`sha256:...`).

        An alias that points to a version stays where it is when the version fails a later check;
        the verdict stops the next move, and the history shows it.

        Raises:
            Untrusted: The kind is not a word, the time has no zone, or the body is not JSON; or it
                is a verdict from the future.
            NotFound: Nothing with that digest was pushed.
        """
        digest = version.digest if isinstance(version, Version) else version
        said = Statement(kind, digest, at.isoformat(), by, body)
        statement = check_statement(said, now=self._clock())
        with self._records.write() as book:
            spoken_of = book.versions_of(digest)
            if not spoken_of:
                raise NotFound(
                    f"no version has the digest {digest}", hint="bascule push PATH", digest=digest
                )
            # A verdict and the move of an alias come one after the other.
            for model in sorted({found.model for found in spoken_of}):
                book.lock_model(model, at=self._clock())
            self._lay_beside(statement)
            self._take_in(book, statement)
        return statement

    def _lay_beside(self, statement: Statement) -> None:
        """Write it to the bundle's folder too, for readers without a catalogue."""
        content = canonical_json(statement.to_json())
        self._objects.put_statement(statement.subject, statement.file_name, content)

    def _take_in(
        self, book: Transaction, statement: Statement, *, brought_by: str | None = None
    ) -> None:
        if not book.add_statement(statement, brought_by=brought_by) or statement.kind != "gates":
            return
        by, reason = statement.by, summary_of_gates(statement.body)
        if brought_by is not None:
            by, reason = brought_by, f"by {statement.by} before the push: {reason}"
        for version in book.versions_of(statement.subject):
            book.add_event(self._event("gates_recorded", version, by=by, reason=reason))

    def _event(self, kind: Any, version: Version, **details: Any) -> Event:
        return Event(
            kind=kind, model=version.model, number=version.number, at=self._clock(), **details
        )


def _refuse_non_finite(path: Path, manifest: Manifest, model: str) -> None:
    if name := non_finite_answers(path, manifest):
        raise Refused(
            f"{model} answers NaN or an infinite number in {name!r} to its own held-out rows",
            hint="mend it; or, if such answers have a meaning, pack it again with "
            "allow_non_finite=True (--allow-non-finite)",
        )


def _check_model(book: Transaction, model: str) -> None:
    known = book.models()
    if model not in known:
        raise no_model(model, known)


def _get_version(book: Transaction, model: str, number: int) -> Version:
    _check_model(book, model)
    found = book.version(model, number)
    if found is None:
        raise no_version(model, number, [version.number for version in book.versions(model)])
    return found


def _get_alias(book: Transaction, model: str, alias: str) -> Alias:
    _check_model(book, model)
    aliases = book.aliases(model)
    if alias not in aliases:
        raise no_alias(model, alias, aliases)
    return aliases[alias]


def _find_digest(book: Transaction, model: str, digest: str) -> Version | None:
    return next((found for found in book.versions_of(digest) if found.model == model), None)


def _newest(versions: Sequence[Version]) -> Version:
    """The newest in use; of retired ones only, the newest."""
    return next((one for one in reversed(versions) if one.retired is None), versions[-1])


def _refuse_retired(version: Version | None) -> None:
    if version is not None:
        check_is_in_use(version)


def files_to_keep(path: Path, digest: str, manifest: Manifest) -> dict[str, str | None]:
    """The files of a bundle that a registry keeps, each with its digest; see `Objects.put`."""
    kept: dict[str, str | None] = {name: entry.sha256 for name, entry in manifest.files.items()}
    kept[MANIFEST] = digest
    if (path / CARD).is_file():
        kept[CARD] = None
    return kept
