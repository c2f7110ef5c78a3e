"""Every place that bundles are fetched from keeps to the port, beside a real server of its kind."""

from __future__ import annotations

import gc
import json
import secrets
import sys
from contextlib import contextmanager
from warnings import catch_warnings

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.gcs_front import fronting

from bascule.bundle.disk.folder import digest_of
from bascule.core.errors import (
    BasculeError,
    Conflict,
    Invalid,
    MissingExtra,
    NotFound,
    TooLarge,
    Unavailable,
    Untrusted,
)
from bascule.remotes import fetch, fetching, gcs

MODEL = "programs/onnx.onnx"


@pytest.fixture
def bundle(cancer_bundle):
    return cancer_bundle


@pytest.fixture
def into(tmp_path):
    return tmp_path / "copies" / "bundle"


@pytest.fixture(autouse=True)
def copies(into):
    into.parent.mkdir()
    return into.parent


@pytest.fixture
def front(gcs_server, gs_bucket, monkeypatch):
    with fronting(gcs_server) as made:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", made.url)
        yield made
    with catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # to which Google's client leaves the connections of what failed


def files_of(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def refused(url, into, kind, *told):
    """Nothing may be left of a bundle that was not taken."""
    with pytest.raises(kind) as caught:
        fetch(url, into)
    assert list(into.parent.iterdir()) == []
    for one in told:
        assert one in caught.value.message
    assert "copies" not in caught.value.message, "the caller has not chosen that folder"
    return caught.value


@contextmanager
def opened(url):
    """A place, and what it lists."""
    with fetching.open_place(*fetching._parse(url)) as place:
        yield place, {one.name: one for one in place.objects()}


class Sink:
    def __init__(self):
        self.data = b""

    def write(self, data, /):
        self.data += data
        return len(data)


# -- what arrives --


def test_a_bundle_arrives_as_it_was_copied_there(bucket, bundle, into, monkeypatch):
    monkeypatch.setattr(fetching, "_TELL_EVERY_S", 0.0)
    bucket.fill(bundle)
    said = []
    fetch(bucket.url, into, tell=said.append)

    assert files_of(into) == files_of(bundle)
    assert digest_of(into) == digest_of(bundle)
    assert any(name.startswith("statements/") for name in files_of(into))
    count, size = len(files_of(bundle)), sum(map(len, files_of(bundle).values())) / 1e6
    assert said[0] == f"fetching {bucket.url}: {count} files, {size:,.1f} MB"
    assert f"fetching {bucket.url}: 1 of {count} files" in "\n".join(said[1:-1])
    assert said[-1].startswith(f"fetched {bucket.url}: {count} files, {size:,.1f} MB in ")


def test_it_may_be_directly_below_the_address_and_beside_others(bucket, bundle, into):
    bucket.fill(bundle, "late/gb.bundle/")
    bucket.put("late/README", b"not of it")
    bucket.put("later/bundle.json", b"of a neighbour")
    fetch(f"{bucket.url}/late/", into)

    assert files_of(into) == files_of(bundle)


@pytest.mark.parametrize(
    ("objects", "kind", "told"),
    [
        ([], NotFound, "there are no objects under"),
        (["late.csv"], NotFound, "bundle.json is missing"),
        (["a/bundle.json", "b/bundle.json"], Invalid, "there are several bundles at"),
    ],
)
def test_what_is_not_one_bundle_is_told(bucket, into, objects, kind, told):
    for name in objects:
        bucket.put(name, b"{}")
    assert refused(bucket.url, into, kind, told, bucket.url).hint


def test_a_bucket_that_is_not_there_is_told(bucket, into):
    scheme = bucket.url.partition("://")[0]
    url = f"{scheme}://no-{secrets.token_hex(6)}/late"
    assert refused(url, into, NotFound, "there is no bucket for", url).hint


# -- what is refused --


def test_an_object_that_is_missing_is_named(bucket, bundle, into):
    bucket.fill(bundle)
    bucket.remove(MODEL)
    refused(bucket.url, into, Untrusted, f"{MODEL} of bundle {bucket.url} is missing")


def test_an_object_that_was_altered_is_named(bucket, bundle, into):
    bucket.fill(bundle)
    data = (bundle / MODEL).read_bytes()
    bucket.put(MODEL, data[:-1] + bytes([data[-1] ^ 1]))
    refused(bucket.url, into, Untrusted, MODEL, bucket.url)


def test_an_object_that_is_not_of_the_bundle_is_named(bucket, bundle, into):
    bucket.fill(bundle)
    bucket.put("programs/more.onnx", b"x")
    refused(bucket.url, into, Untrusted, "programs/more.onnx", bucket.url)


def test_what_does_not_fit_is_refused_before_it_is_read(bucket, bundle, into, monkeypatch):
    bucket.fill(bundle)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("", (), {"free": 1_000}))
    with pytest.raises(TooLarge) as caught:
        fetch(bucket.url, into)
    assert bucket.url in caught.value.message
    assert "TMPDIR" in caught.value.hint
    assert list(into.parent.iterdir()) == []


def test_a_folder_that_is_there_is_not_overwritten(bucket, bundle, into):
    bucket.fill(bundle)
    into.mkdir()
    with pytest.raises(Conflict):
        fetch(bucket.url, into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "gs://",
        "gs://b",
        "s3:///late",
        "gs://models/a/../b",
        "gs://ada:secret@models/late",
        "x://bucket",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_what_may_be_a_password(url, into):
    told = refused(url, into, Invalid, "is not a place in a bucket")
    assert "secret" not in told.message
    assert "gs://BUCKET/FOLDER" in told.hint


# -- what changes, or fails, meanwhile --


@pytest.fixture
def strict_bucket(bucket, request):
    """The emulator looks at no generation; what stands before it does."""
    if bucket.url.startswith("gs:"):
        request.getfixturevalue("front")
    return bucket


def test_an_object_that_changes_after_it_was_listed_is_not_taken(strict_bucket):
    strict_bucket.put("bundle.json", b"before")
    into = Sink()
    with opened(strict_bucket.url) as (place, listed):
        strict_bucket.put("bundle.json", b"behind")
        with pytest.raises(Conflict, match=r"bundle\.json of .* changed while the bundle was read"):
            place.copy(listed["bundle.json"], into)
    assert into.data == b""


def test_an_object_that_goes_after_it_was_listed_is_named(bucket):
    bucket.put("bundle.json", b"before")
    gone = r"bundle\.json of .* was removed while the bundle was read"
    with opened(bucket.url) as (place, listed):
        bucket.remove("bundle.json")
        with pytest.raises(Conflict, match=gone):
            place.copy(listed["bundle.json"], Sink())


def test_what_stands_for_a_moment_is_tried_again(front, gs_bucket, bundle, into):
    gs_bucket.fill(bundle)
    front.trouble = {"o?": [503], MODEL: [503, "cut"]}
    fetch(gs_bucket.url, into)

    assert files_of(into) == files_of(bundle)
    assert front.trouble == {"o?": [], MODEL: []}
    half = (bundle / MODEL).stat().st_size // 2
    assert front.ranges == [f"bytes={half}-"], "it goes on where it was cut"


def test_how_long_it_is_tried_again_grows_with_the_object(
    front, gs_bucket, bundle, into, monkeypatch
):
    monkeypatch.setattr(gcs, "_RETRY_FOR_S", 0.0)
    monkeypatch.setattr(gcs, "_SLOW_BYTES_PER_S", 1.0)
    gs_bucket.fill(bundle)
    front.trouble = {MODEL: ["cut"]}
    fetch(gs_bucket.url, into)
    assert front.trouble == {MODEL: []}


@pytest.mark.parametrize("part", ["o?", MODEL])
def test_what_stays_so_is_given_up(front, gs_bucket, bundle, into, monkeypatch, part):
    monkeypatch.setattr(gcs, "_RETRY_FOR_S", 0.1)
    monkeypatch.setattr(gcs, "_SLOW_BYTES_PER_S", 1e9)
    gs_bucket.fill(bundle)
    front.trouble = {part: [503] * 100}
    told = refused(gs_bucket.url, into, Unavailable, gs_bucket.url, "cannot be read")
    assert (MODEL in told.message) == (part == MODEL)


@pytest.mark.parametrize("part", ["o?", MODEL])
def test_what_google_does_not_allow_is_told_with_the_role(front, gs_bucket, bundle, into, part):
    gs_bucket.fill(bundle)
    front.trouble = {part: [403]}
    told = refused(
        gs_bucket.url, into, Unavailable, "the Google credentials may not read", gs_bucket.url
    )
    assert "Storage Object Viewer" in told.hint


def test_keys_that_s3_does_not_know_are_told(s3_bucket, bundle, into, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    told = refused(s3_bucket.url, into, Unavailable, "do not allow access", s3_bucket.url)
    assert "AWS_ACCESS_KEY_ID" in told.hint


@pytest.fixture
def service_account(front, tmp_path, monkeypatch):
    """What a container is given: no word of an emulator, and a key that Google gives tokens for."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    account = {
        "type": "service_account",
        "project_id": "models",
        "client_email": "late@models.iam",
        "private_key": key.private_bytes(*form).decode(),
        "token_uri": f"{front.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", front.url)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")


def test_a_service_account_reads_with_its_token(service_account, front, gs_bucket, bundle, into):
    gs_bucket.fill(bundle)
    fetch(gs_bucket.url, into)

    assert files_of(into) == files_of(bundle)
    assert front.authorizations == {"Bearer t0k"}


def test_a_service_account_that_google_does_not_know_is_told(
    service_account, front, gs_bucket, bundle, into
):
    front.trouble = {"/token": [400] * 9}
    refused(gs_bucket.url, into, Unavailable, "the Google credentials may not read", gs_bucket.url)


def test_without_credentials_of_google_the_next_step_is_told(into, tmp_path, monkeypatch):
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # there is no server of them here to wait for
    told = refused("gs://models/late", into, Unavailable, "there are no Google credentials")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in told.hint


@pytest.mark.parametrize(
    ("scheme", "library", "extra"),
    [("gs", "google.cloud.storage", "gcs"), ("s3", "obstore.store", "s3")],
)
def test_without_its_library_the_line_that_installs_it_is_told(
    into, monkeypatch, scheme, library, extra
):
    monkeypatch.setitem(sys.modules, library, None)
    told = refused(f"{scheme}://models/late", into, MissingExtra)
    assert told.hint == f"pip install 'bascule[{extra}]'"


def test_every_error_of_a_place_is_one_of_ours(gs_bucket, into, monkeypatch):
    monkeypatch.setattr(gcs, "_RETRY_FOR_S", 0.1)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(BasculeError, match="ConnectionError"):
        fetch(gs_bucket.url, into)
