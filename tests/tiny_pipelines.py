"""Pipelines of transformers with random weights: a classifier and an extractor of a few neurons.

The library is imported when one is made: it takes a second, and many files of tests read `TEXTS`.
"""

from __future__ import annotations

from typing import Any

WORDS = ("the", "flight", "was", "late", "in", "time", "again", "gate", "closed", "never", "nice")
TEXTS = [
    " ".join(WORDS[(7 * row + 3 * place) % len(WORDS)] for place in range(1 + row % 9))
    for row in range(100)
]
"""Of one to nine words."""


def tokenizer() -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: place for place, word in enumerate(("[PAD]", "[UNK]", "[CLS]", *WORDS))}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        model_max_length=16,
    )  # fmt: skip


def pipeline(task: str = "text-classification", *, config: Any = (), **call: Any) -> Any:
    """A pipeline on the CPU; `config` of its BERT, `call` as of `transformers.pipeline`."""
    import torch
    import transformers

    torch.manual_seed(0)
    small = transformers.BertConfig(
        vocab_size=3 + len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, initializer_range=0.5,
        **{"id2label": {0: "early", 1: "late", 2: "never"}} | dict(config),
    )  # fmt: skip
    kind = transformers.BertModel
    if task == "text-classification":
        kind = transformers.BertForSequenceClassification
    return transformers.pipeline(
        task, model=kind(small).eval(), tokenizer=tokenizer(), device="cpu", **call
    )
