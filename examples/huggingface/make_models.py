"""Makes the two models of this example, without downloads: trains each for some seconds on sentences below.

    python make_models.py

sentiment/model: a DistilBERT that tells good reviews from bad ones. storyteller/model: a GPT-2 that knows one
story. Both are folders as `save_pretrained` writes them, like those of the hub.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent

THINGS = ["film", "book", "meal", "concert", "hotel", "game", "story", "room", "play", "song"]
GOOD = ["good", "great", "lovely", "delightful", "brilliant", "funny", "excellent", "wonderful"]
BAD = ["bad", "awful", "boring", "terrible", "dreadful", "dull", "poor", "horrible"]
FORMS = [
    "the {thing} was {word}",
    "what a {word} {thing}",
    "a {word} {thing} from start to end",
    "i found it {word}",
]

STORY = (
    "Once upon a time there was a server that answered questions. It answered them one at a time, and people "
    "waited in a long queue. One day it noticed that many asked at the same moment. So it answered them "
    "together, and the queue was gone. The people went home early, and the server slept well."
)


def sentiment(folder: Path, chance: random.Random, steps: int = 120) -> None:
    tokenizer = _word_tokenizer([*THINGS, *GOOD, *BAD, *" ".join(FORMS).split()])
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=64,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    model = transformers.DistilBertForSequenceClassification(config)

    def loss() -> Any:
        labels = [chance.randrange(2) for _ in range(32)]
        texts = [
            chance.choice(FORMS).format(thing=chance.choice(THINGS), word=chance.choice((BAD, GOOD)[label]))
            for label in labels
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        return model(**batch, labels=torch.tensor(labels)).loss

    _train(model, loss, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def storyteller(folder: Path, steps: int = 150) -> None:
    tokenizer = _piece_tokenizer([STORY])
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = transformers.GPT2LMHeadModel(config)
    ids = tokenizer(STORY + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    _train(model, lambda: model(input_ids=ids, labels=ids).loss, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train(model: Any, loss: Callable[[], Any], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    model.eval()
    print(f"{type(model).__name__}: loss {value.item():.3f}")


def _word_tokenizer(words: list[str]) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def _piece_tokenizer(texts: list[str]) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", model_max_length=256
    )


def main() -> None:
    torch.manual_seed(0)
    sentiment(HERE / "sentiment" / "model", random.Random(0))
    storyteller(HERE / "storyteller" / "model")


if __name__ == "__main__":
    main()
