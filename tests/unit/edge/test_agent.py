"""Devices that follow a channel, in this process; their errands are real processes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.edge_devices import alter_statement
from tests.unit.edge.conftest import TRAP
from tests.waiting import until

from bascule.bundle import load, read_manifest
from bascule.bundle.disk import PASSPORT, sign_passport, write_statement
from bascule.core import Conflict, ModelFailed, Overloaded, TimedOut, Unavailable, Untrusted
from bascule.edge import GOLDEN, check_golden, device_statements, lay_statements
from bascule.edge.__main__ import main
from bascule.packing import Composition, pack

ROWS = np.random.default_rng(1).normal(size=(2, 4))


def ask(device, times=1, rows=ROWS):
    tensor = {"name": "input", "datatype": "FP64", "shape": rows.shape, "data": rows.tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    for _ in range(times):
        device.device.answer(body)


def events(device):
    """Event and reason of every report that waits, oldest first."""
    files = sorted(device.agent.home.outbox.glob("*.json"))
    return [(report["event"], report["reason"]) for report in map(json.loads, map(_text, files))]


def _text(file):
    return file.read_text()


def break_model(monkeypatch, device):
    """Have every request to the version that serves fail from now on."""

    def fail(body, json_bytes):
        raise ModelFailed("broken")

    monkeypatch.setattr(device.device.opened, "reply", fail)


def test_a_device_answers_with_the_bits_of_the_bundle_that_its_channel_names(installed, versions):
    answer = installed.device.predict(ROWS)
    expected = load(versions[0]).predict(ROWS)
    assert answer["probabilities"].tolist() == expected["probabilities"].tolist()


def test_a_new_version_answers_beside_before_it_serves_and_the_old_one_stays_to_return_to(
    installed, publisher, versions
):
    before = installed.state.current
    offer = publisher.publish(versions[1], "late/2")
    installed.until(lambda: installed.device.trial)
    assert installed.state.current == before

    ask(installed, 4)
    installed.serves(offer)
    assert installed.state.last_good == before
    assert installed.agent.home.digests() == {before.digest, offer.digest}
    assert events(installed)[-1] == ("installed", "3 of 3 differ")
    assert installed.device.trial is None


def test_a_candidate_that_fails_in_trial_is_refused_and_never_tried_again(
    installed, publisher, trap
):
    before = installed.state.current
    offer = publisher.publish(trap(hangs=False), "late/2")
    installed.until(lambda: installed.device.trial)
    ask(installed, 2)
    ask(installed, rows=np.full((2, 4), TRAP))
    installed.until(lambda: offer.digest in installed.state.refused)
    for _ in range(3):
        installed.turn(1.0)
    assert installed.state.current == before
    assert installed.agent.resting == "every version of the channel was refused"
    reason = installed.state.refused[offer.digest]
    assert reason.startswith("in trial, 1 of 3 requests failed: program onnx failed")
    assert events(installed)[-1] == ("refused", reason)


def test_a_candidate_that_hangs_delays_no_caller_and_is_refused_when_its_time_is_over(
    installed, publisher, trap
):
    before = installed.state.current
    offer = publisher.publish(trap(hangs=True), "late/2")
    installed.until(lambda: installed.device.trial)
    ask(installed, 3, np.full((2, 4), TRAP))
    installed.agent.plan = replace(installed.agent.plan, check_s=4.0)
    took_s = []

    def is_refused():
        installed.agent.turn(time.monotonic())
        began_s = time.monotonic()
        ask(installed)
        took_s.append(time.monotonic() - began_s)
        return offer.digest in installed.state.refused

    until(is_refused)
    assert max(took_s) < 2.0
    assert installed.state.refused == {offer.digest: "the trial of late/2 took over 4 s"}
    assert events(installed)[-1] == ("refused", "the trial of late/2 took over 4 s")
    assert installed.state.current == before
    assert installed.agent.home.digests() == {before.digest}


@pytest.mark.slow
def test_a_version_that_hangs_while_it_serves_is_interrupted_and_returned_from(
    installed, publisher, trap, monkeypatch
):
    before = installed.state.current
    offer = publisher.publish(trap(hangs=True), "late/2")
    installed.until(lambda: installed.device.trial)
    ask(installed, 3)
    installed.serves(offer)
    monkeypatch.setattr("bascule.edge.device._MAX_WAIT_S", 0.2)
    outcomes = []

    def hang():
        try:
            ask(installed, rows=np.full((2, 4), TRAP))
        except (Overloaded, TimedOut) as problem:
            outcomes.append(type(problem))

    callers = [threading.Thread(target=hang) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60.0)
    assert set(outcomes) == {Overloaded, TimedOut}
    installed.turn()
    assert installed.state.current == before
    assert installed.state.refused == {offer.digest: "6 of 6 requests failed"}
    ask(installed)


def test_a_version_whose_recorded_answers_differ_on_this_device_never_serves(
    installed, publisher, altered
):
    before = installed.state.current
    path = altered(1)
    alter_statement(path, GOLDEN, _move_first_probability)
    offer = publisher.publish(path, "late/2")
    reason = installed.until(lambda: installed.state.refused.get(offer.digest))
    assert reason.startswith("golden check: 0 of 40 labels differ")
    assert installed.state.current == before
    assert events(installed)[-1] == ("golden_failed", reason)
    assert installed.agent.home.digests() == {before.digest}


def _move_first_probability(body):
    (probabilities,) = (one for one in body["outputs"] if one["name"] == "probabilities")
    probabilities["data"][0] += 1e-3


def test_the_golden_check_allows_the_tolerance_of_the_program_and_no_more(versions, altered):
    checked = check_golden(versions[0])
    assert checked["rows"] == 40
    assert checked["largest_difference"] <= 1e-5
    without = altered(0)
    for file in (without / "statements").glob(f"{GOLDEN}-*.json"):
        file.unlink()
    with pytest.raises(Untrusted, match="no recorded answers"):
        check_golden(without)


@pytest.mark.slow
def test_a_corrupted_bundle_is_refused_and_a_good_one_fetched_later(installed, publisher, versions):
    before = installed.state.current
    offer = publisher.publish(versions[1], "late/2")
    (program,) = (publisher.place_of(offer) / "programs").glob("*.onnx")
    good = program.read_bytes()
    program.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    installed.until(lambda: events(installed)[-1][0] == "refused")
    assert "is not the file that was sealed" in events(installed)[-1][1]
    assert installed.state.current == before
    assert not installed.state.refused

    program.write_bytes(good)
    installed.until(lambda: installed.device.trial)


def test_an_attack_on_the_repository_is_reported_once_by_its_name(installed, publisher):
    (publisher.folder / "attack").write_text("rolled back: the snapshot is older")
    count = len(events(installed))
    installed.until(lambda: len(events(installed)) > count)
    for _ in range(4):
        installed.turn(3.0)
    assert events(installed)[count:] == [("refused", "rolled back: the snapshot is older")]


def test_a_version_that_fails_requests_is_returned_from_and_refused(
    installed, publisher, versions, monkeypatch
):
    before = installed.state.current
    offer = publisher.publish(versions[1], "late/2")
    installed.until(lambda: installed.device.trial)
    ask(installed, 4)
    installed.serves(offer)

    with monkeypatch.context() as patch:
        break_model(patch, installed)
        for _ in range(5):
            with pytest.raises(ModelFailed):
                ask(installed)
    installed.turn()
    assert installed.state.current == before
    assert installed.state.refused == {offer.digest: "5 of 5 requests failed"}
    assert ("returned", "5 of 5 requests failed") in events(installed)
    ask(installed)


def test_the_only_version_serves_on_though_it_fails_requests(installed, monkeypatch):
    with monkeypatch.context() as patch:
        break_model(patch, installed)
        for _ in range(6):
            with pytest.raises(ModelFailed):
                ask(installed)
    installed.turn()
    assert installed.state.current is not None
    ask(installed)


def test_a_version_that_never_stays_up_is_left_after_three_starts(
    run, installed, publisher, versions
):
    before = installed.state.current
    offer = publisher.publish(versions[1], "late/2")
    installed.until(lambda: installed.device.trial)
    ask(installed, 4)
    installed.serves(offer)
    for _ in range(2):
        assert run().state.current == offer
    device = run()
    assert device.state.current == before
    assert "started 3 times" in device.state.refused[offer.digest]
    ask(device)


@pytest.mark.slow
def test_a_damaged_slot_is_returned_from_and_fetched_again_without_being_refused(
    run, installed, versions
):
    offer = installed.state.current
    (program,) = (installed.agent.home.slot(offer.digest) / "programs").glob("*.onnx")
    program.write_bytes(b"x" * program.stat().st_size)
    device = run()
    assert device.state.current is None
    device.serves(offer)
    ask(device)


def test_a_damaged_state_is_started_from_the_channel(run, installed):
    offer = installed.state.current
    (installed.agent.home.path / "state.json").write_bytes(b"{")
    device = run()
    assert "state.json is damaged" in events(device)[-1][1]
    device.serves(offer)


def test_a_device_without_a_name_draws_one_and_keeps_it(run):
    name = run(name="").state.device
    assert len(name) == 16
    assert run(name="").state.device == name


def test_two_agents_do_not_share_a_home(run, installed, publisher):
    from tests.unit.edge.conftest import Run

    with pytest.raises(Conflict, match="another process"):
        Run(installed.agent.home.path, publisher.folder)


@pytest.mark.slow
def test_a_home_is_opened_by_other_processes_and_follows_its_agent(installed, publisher, versions):
    from bascule.edge import Device

    reader = Device(installed.agent.home.path)
    assert reader.predict(ROWS)["label"].shape == (2,)
    before = reader.opened.offer
    offer = publisher.publish(versions[1], "late/2")
    installed.until(lambda: installed.device.trial)
    ask(installed, 4)
    installed.serves(offer)
    assert reader.opened.offer == offer != before


@pytest.mark.slow
def test_a_version_without_a_required_claim_is_not_taken_until_a_passport_makes_it(
    run, publisher, altered, tmp_path
):
    """The device's clock is behind the passport's time, which is signed and therefore later."""
    private, public = tmp_path / "ada.pem", tmp_path / "ada.pub"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    known = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(known)
    path = altered(0)
    offer = publisher.publish(path, "late/1")
    device = run(claims=("parity",), keys=(str(public),))
    device.until(lambda: device.agent.resting.startswith("late may not be used"))
    assert device.state.current is None
    assert "'parity' is required of its passport" in events(device)[-1][1]

    issued_at = datetime.now(UTC) + timedelta(days=400)
    claims = {"parity": {"passed": True}}
    envelope = sign_passport(read_manifest(path), claims, private, now=issued_at, by="ada")
    write_statement(publisher.place_of(offer), PASSPORT, envelope, at=issued_at, by="t")
    device.serves(offer)


def test_an_enrolled_device_knows_its_channel_and_others_are_told_what_is_missing(
    tmp_path, capsys, monkeypatch
):
    # In this process OpenSSL is needed by other tests.
    monkeypatch.setattr("bascule.edge.__main__._LEFT_OUT", ())
    home, file = tmp_path / "home", tmp_path / "camera.json"
    assert main(["run", "--home", str(home)]) == 1
    assert "bascule-edge enroll FILE" in capsys.readouterr().err
    for content in ("", "[]", "{}", '{"root": null}'):
        file.write_text(content)
        assert main(["enroll", str(file), "--home", str(home)]) == 1
    about = {"device": "camera", "channel": "stable", "server": "", "key": "k", "repository": "R"}
    file.write_text(json.dumps(about | {"root": {"signed": {}}}))
    for _ in range(2):
        assert main(["enroll", str(file), "--home", str(home)]) == 0
    assert json.loads((home / "root.json").read_bytes()) == {"signed": {}}
    assert (home / "device.json").stat().st_mode & 0o777 == 0o600
    asked = []

    def repository(place, address, root):
        asked.append((place, address, root))
        raise Unavailable("away")

    (home / "state.json").write_bytes(b"{")  # a damaged state is the agent's to start without
    assert main(["run", "--home", str(home)], repository) == 1
    assert asked == [(home, "R", home / "root.json")]


def test_a_composition_is_installed_and_answers_as_where_it_was_packed(
    publisher, run, versions, tmp_path
):
    parts = {"a": {"model": "0"}, "b": {"model": "1"}, "both": {"ensemble": ["a", "b"]}}
    model = Composition({"parts": parts}, lambda name: load(versions[int(name)]))
    made = pack(model, name="late", to=tmp_path / "both", measure=False)
    lay_statements(made.path, device_statements(made.path, by="test"))
    one = run()
    one.serves(publisher.publish(made.path, "late/1"))
    answer = one.device.predict(ROWS)
    assert answer["probabilities"].tolist() == made.predict(ROWS)["probabilities"].tolist()
