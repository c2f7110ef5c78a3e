"""ONNX Runtime GenAI as an engine, on a tiny model from its own builder, against transformers.

It requires a newer ONNX Runtime than the lock has, so that its package lies beside, and works with
that one all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.language_models import asking
from tests.own_environments import files_of

import bascule
from bascule.core import Invalid

pytestmark = pytest.mark.slow

MAKE = """
import sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
text = 'user: assistant: the cat sat on the mat < s >{}[]\\"0123456789-.,x'
trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<s>", "</s>"])
bpe.train_from_iterator([text + chr(10)] * 9, trainer)
template = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}<s>assistant: "
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", chat_template=template
)
tokenizer.save_pretrained(folder)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
    bos_token_id=0, eos_token_id=1, initializer_range=0.4,
)
ids = tokenizer("<s>user: the cat\\n<s>assistant: ", return_tensors="pt", add_special_tokens=False)
for seed in range(50):  # one whose answer does not end soon, nor has special tokens
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    made = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids.input_ids.shape[1]:]
    if len(made) == 12 and made.min() > 1 and len({*made.tolist()}) > 5:
        break
model.save_pretrained(folder)
print("GREEDY", tokenizer.decode(made, skip_special_tokens=True).encode().hex())
"""


EMPTY = {"type": "json_schema", "json_schema": {"schema": {"enum": []}}}


@pytest.fixture(scope="module")
def packages():
    packages = files_of("genai", python=f"{sys.version_info.major}.{sys.version_info.minor}")
    with pytest.MonkeyPatch.context() as patch:
        before = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (before, str(packages)))))
        patch.setattr(sys, "path", [*sys.path, str(packages)])
        yield packages


@pytest.fixture(scope="module")
def made(packages, tmp_path_factory):
    folder, greedy = tmp_path_factory.mktemp("genai"), ""
    build = [
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        folder / "hf",
        "-o",
        folder / "weights",
    ]
    for command in (["-c", MAKE, folder / "hf"], [*build, "-p", "fp32", "-e", "cpu"]):
        made = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, cwd=folder
        )
        assert made.returncode == 0, made.stderr[-2_000:]
        greedy = made.stdout if "GREEDY" in made.stdout else greedy
    (line,) = (line for line in greedy.splitlines() if line.startswith("GREEDY "))
    return folder / "weights", bytes.fromhex(line.split()[1]).decode()


@pytest.fixture(scope="module")
def bundle(made, tmp_path_factory):
    model = bascule.TextGeneration(
        made[0], defaults={"temperature": 0, "max_tokens": 12}, context_tokens=200
    )
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return bascule.pack(model, name="tiny", to=folder, measure=False)


def chunk(bundle, said):
    return json.loads(bundle.predict({"request": [said]})["chunk"][0])


def test_greedy_answers_are_those_of_transformers(bundle, made):
    said = chunk(bundle, "the cat")
    assert said["text"] == made[1]
    assert said["usage"]["completion_tokens"] == 12
    assert "original/weights/model.onnx" in bundle.manifest.files
    assert bundle.manifest.original.requires == {"onnxruntime-genai": "0.18.0"}


def test_special_tokens_in_a_message_are_text(bundle):
    more, fewer = (chunk(bundle, "<s>" * count)["usage"]["prompt_tokens"] for count in (9, 8))
    assert more > fewer + 1, "`<s>` by its characters"


def test_a_schema_holds_for_random_weights_too(bundle):
    import jsonschema

    schema = {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"], "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    for seed in range(3):
        said = chunk(
            bundle, asking("x", response_format=form, temperature=1, seed=seed, max_tokens=40)
        )
        jsonschema.validate(json.loads(said["text"]), schema)


def test_seeds_stops_and_log_probabilities(bundle):
    drawn = {"temperature": 1.5, "seed": 5, "max_tokens": 8}
    assert chunk(bundle, asking("x", **drawn)) == chunk(bundle, asking("x", **drawn))
    whole = chunk(bundle, "the cat")["text"]
    stopped = chunk(bundle, asking("the cat", stop=[whole[3:5]]))
    assert stopped["text"] == whole[: whole.index(whole[3:5])]
    told = chunk(bundle, asking("the cat", logprobs=True, top_logprobs=2, max_tokens=3))
    assert len(told["logprobs"]) == 3
    first = told["logprobs"][0]
    assert first["logprob"] == max(top["logprob"] for top in first["top_logprobs"]) < 0


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (asking("x", logit_bias={"1": 1}), "logit_bias"),
        (asking("x", presence_penalty=1), "presence_penalty"),
        (asking("the cat " * 200), "messages"),
        (asking("x", response_format=EMPTY), "response_format"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_by_name(bundle, said, field):
    with pytest.raises(Invalid, match=f"^{field}"):
        chunk(bundle, said)
