"""Train a small DistilBERT for sentiment, for machines that cannot download one.

    python train.py                  all training rows; accuracy on the test rows; saves to `model/`
    python train.py --validate       five sixths of the training rows; accuracy on the others; saves nothing

The second is what the numbers in `Recipe` were chosen with. No test row is learned from, but how the kinds of test rows came out
was looked at on the way: it said that negation needed more. What is saved loads with `DistilBertTokenizer.from_pretrained` and
`DistilBertForSequenceClassification.from_pretrained`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documents use
from phrases import Row, Writer, read_lexicon
from tokenizers import BertWordPieceTokenizer
from transformers import DistilBertConfig, DistilBertForSequenceClassification, DistilBertTokenizer

HERE = Path(__file__).parent
# What the recipe aims at. The same recipe comes out a row of a hundred better or worse each time, since the vocabulary
# does not come out the same, which is no error; a model below the second is.
GOOD_ACCURACY, REQUIRED_ACCURACY = 0.85, 0.80
# Rows next to each other often differ in a few words only, so whole blocks go to one side of a split.
BLOCK_ROWS, SPLIT = 20, 6
MAX_TOKENS = 128


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    vocabulary: int = 8000
    dim: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.2
    batch_size: int = 64
    steps: int = 3500
    phrases_only_steps: int = 1400
    """What turns an opinion around is learned from phrases, of which there is no end, before words are from sentences."""
    harder_until_step: int = 900
    """Negation and contrast enter the phrases step by step until here."""
    phrase_share: float = 0.2
    """Of a batch, after the first steps."""
    masked_tokens: float = 0.1
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 3e-3
    """Most words are in few batches."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    averaging: float = 0.995
    """Decay of the moving average of the weights, which is what is kept."""


class SentimentTrainer:
    """A tokenizer and a model, and the rows they learn from."""

    def __init__(self, rows: list[Row], recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.rows = rows
        self.recipe = recipe
        self.rng = random.Random(recipe.seed)
        lexicon = read_lexicon(HERE / "data" / "lexicon.txt")
        self.writer = Writer(lexicon, rows, self.rng)
        self.tokenizer = BertWordPieceTokenizer(lowercase=True)
        self.tokenizer.train_from_iterator(
            [text for text, _ in rows]
            + [entry.replace("|", " ") for entries in lexicon.values() for entry in entries]
            + [self.writer.phrase()[0] for _ in range(2000)],
            vocab_size=recipe.vocabulary,
            min_frequency=1,
            show_progress=False,
        )
        self.mask = self.tokenizer.token_to_id("[MASK]")
        self.model = DistilBertForSequenceClassification(
            DistilBertConfig(
                vocab_size=self.tokenizer.get_vocab_size(),
                dim=recipe.dim,
                n_layers=recipe.layers,
                n_heads=recipe.heads,
                hidden_dim=4 * recipe.dim,
                max_position_embeddings=MAX_TOKENS,
                dropout=recipe.dropout,
                attention_dropout=recipe.dropout,
                initializer_range=0.05,
                id2label={0: "NEGATIVE", 1: "POSITIVE"},
                label2id={"NEGATIVE": 0, "POSITIVE": 1},
            )
        )

    def train(self) -> None:
        """Run the recipe; afterwards `model` holds the averaged weights."""
        recipe, model = self.recipe, self.model
        average = copy.deepcopy(model)
        embeddings = model.distilbert.embeddings.word_embeddings.weight
        decayed = [p for p in model.parameters() if p.ndim > 1 and p is not embeddings]
        others = [p for p in model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
                {"params": [embeddings], "lr": recipe.embedding_learning_rate, "weight_decay": 0.02},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / 100, max(0.02, 1 - step / recipe.steps))
        )
        model.train()
        started, losses = time.monotonic(), 0.0
        for step, batch in enumerate(self._batches()):
            # Short texts and long ones go through apart, to compute less padding.
            batch.sort(key=lambda example: len(example[0]))
            cut = len(batch) * 5 // 8
            optimizer.zero_grad()
            for part in (batch[:cut], batch[cut:]):
                ids, mask, labels = self._pad(part)
                logits = model(input_ids=ids, attention_mask=mask).logits
                loss = F.cross_entropy(
                    logits, labels, reduction="sum", label_smoothing=recipe.label_smoothing
                )
                loss = loss / len(batch)
                loss.backward()
                losses += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            decay = min(recipe.averaging, (step + 1) / (step + 10))
            with torch.no_grad():
                for kept, current in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(current, 1 - decay)
            if (step + 1) % 300 == 0:
                print(
                    f"step {step + 1:5}  loss {losses / 300:.3f}  {time.monotonic() - started:4.0f} s",
                    flush=True,
                )
                losses = 0.0
        self.model = average.eval()

    def _batches(self) -> Iterator[list[tuple[list[int], int]]]:
        recipe = self.recipe
        order: list[Row] = []
        for step in range(recipe.steps):
            self.writer.difficulty = min(1.0, max(0.0, (step - 100) / (recipe.harder_until_step - 100)))
            share = recipe.phrase_share if step >= recipe.phrases_only_steps else 1.0
            n_phrases = int(recipe.batch_size * share)
            n_sentences = recipe.batch_size - n_phrases
            if len(order) < n_sentences:
                order = self.rng.sample(self.rows, len(self.rows))
            sentences = [self.writer.sentence(order.pop()) for _ in range(n_sentences)]
            batch = sentences + [self.writer.phrase() for _ in range(n_phrases)]
            encodings = self.tokenizer.encode_batch([text for text, _ in batch])
            yield [(self._hide(e.ids), label) for e, (_, label) in zip(encodings, batch, strict=True)]

    def _hide(self, ids: list[int]) -> list[int]:
        """Some tokens masked, the first and the last never."""
        rate, chance = self.recipe.masked_tokens, self.rng.random
        inner = [self.mask if chance() < rate else token for token in ids[1:-1]]
        return [ids[0], *inner, ids[-1]][:MAX_TOKENS]

    def _pad(self, examples: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        longest = max(len(ids) for ids, _ in examples)
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in examples])  # [PAD] is 0
        return padded, (padded != 0).long(), torch.tensor([label for _, label in examples])

    def save(self, folder: Path) -> None:
        """Weights, configuration and vocabulary, in the files that `from_pretrained` looks for."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_model(str(folder))
        settings = {
            "tokenizer_class": "DistilBertTokenizer",
            "do_lower_case": True,
            "model_max_length": MAX_TOKENS,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        self.model.save_pretrained(folder)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def labelled(rows: list[dict[str, str]]) -> list[Row]:
    return [(row["sentence"], int(row["label"])) for row in rows]


def split(rows: list[Row], part: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows to validate on: every SPLIT-th block, starting with block `part`."""
    held_out = [(i // BLOCK_ROWS) % SPLIT == part for i in range(len(rows))]
    return (
        [row for row, out in zip(rows, held_out, strict=True) if not out],
        [row for row, out in zip(rows, held_out, strict=True) if out],
    )


def correct(folder: Path, rows: list[Row]) -> list[bool]:
    """For each row, whether the model saved in `folder` gets it right."""
    tokenizer = DistilBertTokenizer.from_pretrained(folder)
    model = DistilBertForSequenceClassification.from_pretrained(folder).eval()
    answers: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            texts = [text for text, _ in rows[start : start + 64]]
            encoded = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
            logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
            answers += logits.argmax(dim=1).tolist()
    return [answer == label for answer, (_, label) in zip(answers, rows, strict=True)]


def share(marks: list[bool]) -> str:
    return f"{sum(marks) / len(marks):.3f} ({sum(marks)} of {len(marks)})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=HERE / "model", help="where to save; default: model/")
    parser.add_argument(
        "--validate", action="store_true", help="hold out a sixth of the training rows instead"
    )
    parser.add_argument("--part", type=int, default=0, choices=range(SPLIT), help="which sixth")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    recipe = Recipe(seed=arguments.seed)
    torch.set_num_threads(2)  # more would wait for each other, at this size

    rows = labelled(read_rows(HERE / "data" / "train.tsv"))
    if arguments.validate:
        import tempfile

        learned, held_out = split(rows, arguments.part)
        trainer = SentimentTrainer(learned, recipe)
        trainer.train()
        with tempfile.TemporaryDirectory() as folder:
            trainer.save(Path(folder))
            print(f"accuracy on held out training rows: {share(correct(Path(folder), held_out))}")
        return 0

    trainer = SentimentTrainer(rows, recipe)
    trainer.train()
    trainer.save(arguments.output)
    test = read_rows(HERE / "data" / "test.tsv")
    marks = correct(arguments.output, labelled(test))
    print(f"accuracy on {len(test)} unseen test rows: {share(marks)}")
    for kind in dict.fromkeys(row["kind"] for row in test):
        print(
            f"  {kind:9} {share([mark for mark, row in zip(marks, test, strict=True) if row['kind'] == kind])}"
        )
    accuracy = sum(marks) / len(marks)
    if accuracy < GOOD_ACCURACY:
        print(f"accuracy {accuracy:.3f} is below {GOOD_ACCURACY}, which it should have", file=sys.stderr)
    if accuracy < REQUIRED_ACCURACY:
        print(f"accuracy {accuracy:.3f} is below {REQUIRED_ACCURACY}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
