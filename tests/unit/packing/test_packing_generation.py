"""Models that write texts, packed: what a bundle keeps, what it answers, and what is refused."""

from __future__ import annotations

import json
import threading
import time

import gguf
import numpy as np
import pytest
from tests.language_models import asking
from tests.tiers import first_of

import bascule
from bascule.bundle import read_manifest
from bascule.bundle.generation import chunk_of, joined, open_generation
from bascule.core import (
    BasculeError,
    Invalid,
    ModelFailed,
    Unavailable,
    Untrusted,
)
from bascule.packing import rebuild
from bascule.registry import open_registry
from bascule.release.texts import scores_of


def answer(bundle, *said):
    return bundle.predict({"request": list(said)})


def chunk(bundle, said):
    return json.loads(answer(bundle, said)["chunk"][0])


@pytest.fixture(scope="module")
def bundle(chat):
    return bascule.load(chat)


@pytest.fixture
def pack(smollm2, tmp_path):
    """`pack(template=...)`: a bundle with the weights and these fields."""

    def packed(name="chat", **fields):
        fields = {
            "weights": smollm2, "context_tokens": 512,
            "defaults": {"temperature": 0, "max_tokens": 8}, **fields,
        }  # fmt: skip
        model = bascule.TextGeneration(**fields)
        return bascule.pack(model, name=name, to=tmp_path / name, measure=False, overwrite=True)

    return packed


def test_a_bundle_has_weights_spec_licence_and_signature(bundle, smollm2):
    manifest = bundle.manifest
    assert manifest.task == "generation"
    assert [field.name for field in manifest.signature.inputs] == ["request"]
    assert [field.name for field in manifest.signature.outputs] == ["text", "chunk"]
    assert manifest.original.format == "generation"
    assert set(manifest.original.requires) == {"llama-cpp-python"}
    assert (bundle.path / "original/weights.gguf").stat().st_size == smollm2.stat().st_size
    assert manifest.serves == "original"


def test_rows_are_texts_or_requests_and_each_gets_its_own_answer(bundle):
    both = answer(bundle, "What is the capital of France?", asking("Say hello.", max_tokens=3))
    chunks = [json.loads(said) for said in both["chunk"]]
    assert [said["text"] for said in chunks] == both["text"].tolist()
    assert chunks[1]["usage"]["completion_tokens"] <= 3
    alone = answer(bundle, "What is the capital of France?")
    assert alone["text"][0] == both["text"][0]


def test_the_parts_of_an_answer_are_the_whole(bundle, chat):
    whole = answer(bundle, "Name three colours.")["text"][0]
    program = open_generation(chat, read_manifest(chat))
    request = {"request": np.array(["Name three colours."], object)}
    parts = [*program.run_in_parts(request, None, threading.Event())]
    two = {"request": np.array(["a", "b"], object)}
    with pytest.raises(Invalid, match="1 request"):
        next(program.run_in_parts(two, None, threading.Event()))
    program.close()
    assert len(parts) > 3
    assert {len(part["text"]) for part in parts} == {1}
    assert "".join(part["text"][0] for part in parts) == whole
    assert joined(map(chunk_of, parts)).text == whole
    assert [chunk_of(part).finish is not None for part in parts] == [False] * (len(parts) - 1) + [
        True
    ]


def test_a_bad_request_is_refused_and_the_next_is_answered(bundle):
    with pytest.raises(Invalid, match="temperature"):
        answer(bundle, asking("x", temperature=9))
    assert answer(bundle, asking("Say hello.", max_tokens=2))["text"][0]


@pytest.mark.slow
def test_altered_weights_are_not_opened(pack):
    packed = pack()
    file = packed.path / "original/weights.gguf"
    file.chmod(0o644)
    with file.open("r+b") as weights:
        weights.seek(50_000_000)
        weights.write(b"altered")
    with pytest.raises(Untrusted, match=r"weights\.gguf"):
        answer(bascule.load(packed.path), "x")


# -- system, template, defaults --


@pytest.mark.slow
def test_system_template_and_defaults_are_the_models_own(pack):
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    packed = pack(system="Answer in one word.", template=template, defaults={"max_tokens": 1})
    plain = chunk(packed, "Hi")["usage"]
    assert plain["completion_tokens"] == 1
    own = json.dumps({"messages": [{"role": "system", "content": "x"},
                                   {"role": "user", "content": "Hi"}]})  # fmt: skip
    assert chunk(packed, own)["usage"]["prompt_tokens"] < plain["prompt_tokens"]


HOSTILE = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "refuses": "{{ raise_exception('roles must alternate') }}",
    "changes": "{{ messages.append(1) }}",
    "divides": "{{ 1 / 0 }}",
}


UNENDING = {
    "forever": ("{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3, "takes over 5 s"),
    "endless": (
        "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
        "makes 99,8.* 16,777,216",
    ),
}


def test_a_template_runs_no_code_and_is_bounded_in_time_and_length(pack):
    cases = "".join(
        f"{{% if messages[0].content == '{said}' %}}{evil}{{% endif %}}"
        for said, evil in [
            *HOSTILE.items(),
            *((said, evil) for said, (evil, _) in UNENDING.items()),
        ]
    )
    packed = pack(template=cases + "{{ messages[0].content }}")
    program = open_generation(packed.path, read_manifest(packed.path))
    pid = program.pid
    refusals = dict.fromkeys(HOSTILE, "refuses") | {
        said: told for said, (_, told) in UNENDING.items()
    }
    for said, told in refusals.items():
        with pytest.raises(Invalid, match=f"the chat template {told}"):
            program.run({"request": np.array([said], object)})
    assert program.run({"request": np.array(["Once upon"], object)})["text"][0]
    assert program.pid == pid
    program.close()


def test_a_template_that_always_refuses_is_refused_when_it_is_packed(pack):
    with pytest.raises(Invalid, match="never"):
        pack(template="{{ raise_exception('never') }}")


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "of the weights"])
def test_a_template_that_is_no_jinja_is_told_with_its_line_and_no_traceback(
    pack, smollm2, tmp_path, capfd, is_own
):
    template, where = "{{ bos_token }}\n{% for x %}", "template, line 2: expected token 'in'"
    fields = {"template": template}
    if not is_own:
        where = "tokenizer.chat_template of the weights, line 2: expected token 'in'"
        reader, fields = gguf.GGUFReader(smollm2), {"weights": tmp_path / "broken.gguf"}
        kept = reader.fields["tokenizer.chat_template"].contents()
        data = smollm2.read_bytes()
        broken = template.ljust(len(kept.encode())).encode()
        fields["weights"].write_bytes(data.replace(kept.encode(), broken, 1))
    with pytest.raises(ModelFailed, match=where):
        pack(**fields)
    assert "Traceback" not in capfd.readouterr().err


# -- weights that are none --


def header(tensors, values, version=3):
    return (
        b"GGUF"
        + version.to_bytes(4, "little")
        + tensors.to_bytes(8, "little")
        + values.to_bytes(8, "little")
    )


@pytest.mark.parametrize(
    "data",
    first_of(
        [
            b"GGUF",
            header(0, 0),
            header(1 << 62, 1 << 62),
            header(1, 1) + b"\xff" * 4_096,
            header(0, 1) + (1 << 60).to_bytes(8, "little") + b"x" * 64,
            header(0, 0, version=99),
            "half",
        ]
    ),
    ids=["magic", "empty", "counts", "garbage", "long key", "version", "half"],
)
def test_broken_weights_fail_with_a_reason_and_end_no_process_but_their_own(
    pack, smollm2, tmp_path, data
):
    file = tmp_path / "broken.gguf"
    file.write_bytes(smollm2.read_bytes()[:1_000_000] if data == "half" else data)
    with pytest.raises((ModelFailed, Unavailable)) as failed:
        pack(weights=file)
    assert "original" in failed.value.message
    assert "Traceback" not in str(failed.value)
    assert not (tmp_path / "chat").exists()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"weights": ""}, "either weights or an upstream"),
        ({"upstream": "http://x/v1"}, "either weights or an upstream"),
        ({"weights": "", "upstream": "vllm:8000"}, "an address and the name of a model"),
        ({"weights": "", "upstream": "http://x/v1"}, "an address and the name of a model"),
        ({"weights": "/nothing/there.gguf"}, "neither a GGUF file"),
        ({"adapter": __file__}, "adapter: a GGUF file"),
        ({"defaults": {"temperature": 5}}, "temperature"),
        ({"defaults": {"prompt": "x"}}, "of a request alone"),
        ({"context_tokens": 4}, "context_tokens"),
        ({"memory_bytes": -1}, "memory_bytes"),
    ],
    ids=str,
)
def test_wrong_fields_are_refused_before_anything_is_read(pack, fields, part):
    with pytest.raises(Invalid, match=part):
        pack(**fields)


def test_rows_are_refused(smollm2):
    with pytest.raises(Invalid, match="without rows"):
        bascule.pack(bascule.TextGeneration(smollm2), name="x", train=np.zeros((3, 1)))


def test_weights_that_are_pickles_are_refused(pack, tmp_path):
    folder = tmp_path / "genai"
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}")
    (folder / "model.bin").write_bytes(b"x")
    with pytest.raises(Invalid, match=r"model\.bin"):
        pack(weights=folder)


# -- adapters, versions, rebuilding --


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter of rank 1 over one matrix, which changes answers."""
    file = tmp_path_factory.mktemp("adapters") / "adapter.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    rng = np.random.default_rng(0)
    down = rng.normal(size=(1, 1536)).astype(np.float32)
    up = rng.normal(size=(576, 1)).astype(np.float32)
    writer.add_tensor("blk.20.ffn_down.weight.lora_a", down)
    writer.add_tensor("blk.20.ffn_down.weight.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.slow
def test_an_adapter_changes_answers_and_is_a_version_over_weights_stored_once(
    pack, adapter, tmp_path
):
    plain, adapted = pack("plain"), pack("adapted", adapter=adapter)
    said = "Name three colours."
    assert answer(plain, said)["text"][0] != answer(adapted, said)["text"][0]
    likely = [scores_of(packed, [said])["logprob"][0] for packed in (plain, adapted)]
    assert abs(likely[0] - likely[1]) > 0.1
    registry = open_registry(tmp_path / "home")
    versions = [registry.push(packed.path, by="me") for packed in (plain, adapted)]
    weights = [registry.path(version) / "original/weights.gguf" for version in versions]
    assert len({file.stat().st_ino for file in weights}) == 1
    assert registry.push(adapted.path, by="me") == versions[1]
    assert answer(bascule.load(registry.path(versions[1])), said) is not None


@pytest.mark.slow
def test_a_bundle_is_rebuilt_to_the_same_digest(pack, adapter):
    packed = pack(adapter=adapter, system="Be kind.", licence="Apache-2.0")
    again = rebuild(packed.path)
    assert again.same, again.differences


# -- the command --


@pytest.mark.slow
def test_the_command_packs_weights_and_descriptions(command, smollm2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("pack", str(smollm2), "--name", "plain", "--no-measure", "--json")
    assert (code, json.loads(out)["serves"]) == (0, "original")
    (tmp_path / "weights.gguf").symlink_to(smollm2)
    (tmp_path / "chat.toml").write_text(
        'weights = "weights.gguf"\nsystem = "Be kind."\nlicence = "Apache-2.0"\n'
        "context_tokens = 256\n[defaults]\nmax_tokens = 4\n"
    )
    code, _, err = command("pack", "chat.toml", "--name", "chat", "--no-measure")
    assert code == 0, err
    kept = json.loads((tmp_path / "chat.bundle/original/generation.json").read_text())
    assert (kept["system"], kept["context_tokens"]) == ("Be kind.", 256)
    (tmp_path / "chat.toml").write_text("upstream = 'x'\nweight = 'x'\n")
    code, _, err = command("pack", "chat.toml", "--name", "chat")
    assert code != 0
    assert "'weight' is not known" in err
    assert "context_tokens" in err


def test_every_failure_is_one_of_ours(pack, tmp_path):
    start = time.monotonic()
    with pytest.raises(BasculeError):
        pack(weights=tmp_path)
    assert time.monotonic() - start < 5
