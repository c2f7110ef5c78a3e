import io
import json
import sys

import numpy as np
import pytest
from bench import __main__ as bench, binary, environments
from bench.environments import CannotBeMade, is_made, last_line, make
from bench.measure import WORKS
from bench.report import Report, Sample, in_one_line, markdown, peer_claims
from bench.systems import ALL, PEERS
from bench.systems.peers import REQUIREMENTS
from rich.console import Console

COSTS = {"bascule": 0.03, "mlserver": 0.75, "kserve": 0.9, "mlserver-onnx": 0.4}
RUNS = {"mlserver": "scikit-learn", "kserve": "scikit-learn", "mlserver-onnx": "onnx"}


def samples(costs, *, work="1 row", errors=()):
    return [
        Sample(1, name, work, cost, 1, 1, 1, int(name in errors)) for name, cost in costs.items()
    ]


def test_every_peer_has_its_requirements_and_a_name_of_its_own():
    assert list(PEERS) == [peer.name for peer in PEERS.values()]
    assert not PEERS.keys() & ALL.keys()
    for peer in PEERS.values():
        assert peer.requirements().is_file()
        assert peer.runs in ("scikit-learn", "onnx")
        assert peer.about
        assert peer.distributions


def test_every_requirement_is_a_range():
    for path in REQUIREMENTS.glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert all(">=" in line for line in lines), path


def test_the_best_peer_is_the_one_that_bascule_is_least_ahead_of_among_those_alike():
    found = peer_claims(samples(COSTS), RUNS)

    assert [round(claim.value, 4) for claim in found] == [0.04, 0.075]
    assert [claim.bar for claim in found] == [1 / 15, 1 / 5]
    assert "(mlserver)" in found[0].name
    assert "(mlserver-onnx)" in found[1].name


def test_at_100_rows_the_best_peer_is_the_best_of_all():
    (claim,) = peer_claims(samples(COSTS, work="100 rows"), RUNS)

    assert "(mlserver-onnx)" in claim.name
    assert claim.bar == 1 / 8


def test_over_grpc_bascule_is_compared_with_peers_over_grpc():
    costs = {"bascule-grpc": 0.1, "kserve-grpc": 0.5, "mlserver-grpc": 0.4}
    (claim,) = peer_claims(
        samples(costs, work="1 row gRPC"), dict.fromkeys(list(costs)[1:], "onnx")
    )

    assert "bascule-grpc / the best peer with onnx (mlserver-grpc)" in claim.name
    assert (round(claim.value, 3), claim.bar) == (0.25, 1 / 2)


def test_a_peer_with_errors_is_not_compared_with_and_does_not_void_the_run():
    made = samples(COSTS, errors=("mlserver",))
    settings = dict.fromkeys(["rounds", "seconds", "connections", "server_core", "load_core"], 1)
    report = Report(
        made,
        [],
        {},
        {},
        {**settings, "load_average_before": 0.0, "pinned_program": "onnx"},
        {},
        RUNS,
    )

    assert "(kserve)" in peer_claims(made, RUNS)[0].name
    assert report.errors == 0
    assert "1 (void)" in markdown(report)


def test_without_peers_nothing_is_claimed_of_them():
    assert peer_claims(samples({"bascule": 1.0}), {}) == []


def test_a_peer_that_was_left_out_is_named_with_its_reason():
    settings = dict.fromkeys(["rounds", "seconds", "connections", "server_core", "load_core"], 1)
    report = Report(
        [],
        [],
        {},
        {},
        {**settings, "load_average_before": 0.0, "pinned_program": "onnx"},
        {},
        {},
        {"ray": "no wheel"},
    )

    assert "Not measured: ray: no wheel" in markdown(report)
    assert report.to_json()["left_out"] == {"ray": "no wheel"}


def test_a_long_reason_keeps_who_it_is_of_and_how_it_ends():
    said = in_one_line("kserve ended with 1:\n" + "  File x\n" * 99 + "ValueError: no such thing")

    assert len(said) <= 300
    assert said.startswith("kserve ended with 1: File x")
    assert said.endswith("ValueError: no such thing")
    assert in_one_line("a\n b") == "a b"


def test_an_environment_is_made_once_and_again_when_its_requirements_change(tmp_path):
    requirements, folder = tmp_path / "a.txt", tmp_path / "environment"
    requirements.write_text("# nothing\n")
    assert not is_made(folder, requirements)

    make(folder, requirements)
    assert is_made(folder, requirements)
    assert environments.python_of(folder).exists()

    requirements.write_text("# nothing else\n")
    assert not is_made(folder, requirements)


def test_an_environment_that_cannot_be_made_is_told_with_the_installers_reason(tmp_path):
    requirements, folder = tmp_path / "a.txt", tmp_path / "environment"
    requirements.write_text("./no-such-folder\n")

    with pytest.raises(CannotBeMade, match="no-such-folder"):
        make(folder, requirements)
    assert not is_made(folder, requirements)


def test_peers_whose_environment_cannot_be_made_are_left_out_and_the_others_are_not(monkeypatch):
    def only_kserve_fails(folder, requirements):
        if folder.name == "kserve":
            raise CannotBeMade("no wheel")

    monkeypatch.setattr(environments, "is_made", lambda folder, requirements: False)
    monkeypatch.setattr(environments, "make", only_kserve_fails)
    output = io.StringIO()
    console = Console(file=output, width=200)
    left_out = bench._prepare(console, [PEERS["kserve"], PEERS["kserve-onnx"], PEERS["litserve"]])

    assert left_out.keys() == {"kserve", "kserve-onnx"}
    assert "no environment of kserve: no wheel" in output.getvalue()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Collecting x\nERROR: No match for x\n[notice] new pip\n", "No match for x"),
        ("killed\n\n", "killed"),
        ("", ""),
    ],
)
def test_an_installers_reason_is_its_last_error(text, reason):
    assert last_line(text) == reason


def test_ray_is_measured_when_asked_for_alone():
    def names(**asked):
        return [kind.name for kind in bench._chosen(**asked)]

    assert "ray" not in names(only=None, peers=True, expensive=False)
    assert "ray" in names(only=None, peers=True, expensive=True)
    assert names(only=["ray"], peers=False, expensive=False) == ["ray"]
    assert names(only=None, peers=False, expensive=True) == list(ALL)


def test_the_versions_of_a_peer_are_those_of_its_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "python_of", lambda folder: sys.executable)

    assert environments.installed(tmp_path, ["numpy"]) == {"numpy": np.__version__}


def test_a_binary_request_is_a_head_and_the_bytes_in_the_type_that_it_names():
    rows = np.array([[1.0, 2.0]])
    asked = binary.request("x", "FP32", rows)
    size = int(asked.headers[binary.LENGTH])
    head = json.loads(asked.body[:size])

    assert head["inputs"][0]["parameters"] == {"binary_data_size": 8}
    assert head["parameters"] == {"binary_data_output": True}
    assert np.frombuffer(asked.body[size:], "<f4").tolist() == [1.0, 2.0]


def binary_answer(*tensors):
    raw = b"".join(values.tobytes() for _, _, values in tensors)
    outputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": list(values.shape),
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, datatype, values in tensors
    ]
    head = json.dumps({"outputs": outputs}).encode()
    return head + raw, {binary.LENGTH.lower(): str(len(head))}


def test_of_a_binary_answer_the_output_that_is_asked_for_is_read_from_its_place():
    p = np.array([[0.25, 0.75]], "<f4")
    raw, headers = binary_answer(("label", "INT64", np.array([7])), ("probabilities", "FP32", p))
    values, found = binary.read(raw, headers, "probabilities")

    assert values.tolist() == [[0.25, 0.75]]
    assert found == p.tobytes()


def test_an_answer_in_json_to_a_binary_request_is_refused():
    with pytest.raises(ValueError, match="not binary"):
        binary.read(b"{}", {}, "probabilities")
    raw, headers = binary_answer(("label", "INT64", np.array([7])))
    with pytest.raises(ValueError, match="not among"):
        binary.read(raw, headers, "probabilities")


def test_the_works_are_those_of_the_project():
    assert {(work.rows, work.coding) for work in WORKS.values()} == {
        (1, "json"),
        (100, "json"),
        (100, "binary"),
        (1, "grpc"),
        (100, "grpc"),
    }
