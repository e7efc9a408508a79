"""Small models with random weights, made from configurations: folders as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "a good film with a bad end",
    "what does the fox say to the dog?",
    "translate English to French: summarize: question: this example is about sport, politics and films.",
    "An old friend of mine lives in a small house by the sea, and writes letters to nobody in particular.",
]
HIDDEN = 32


def word_tokenizer(**special: str) -> Any:
    """Words and pieces of them, as BERT has them, trained on the sentences above."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", names.index("[CLS]")), ("[SEP]", names.index("[SEP]"))],
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
        **special,
    )


def byte_tokenizer(pad: bool = False, end: bool = True) -> Any:
    """Bytes and pairs of them, as GPT-2 has them. pad, end: whether it has such tokens."""
    names = ["<end>", "<pad>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    special = {**({"eos_token": "<end>"} if end else {}), **({"pad_token": "<pad>"} if pad else {})}
    names_of_inputs = ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=256, model_input_names=names_of_inputs, **special
    )


def _distilbert(tokenizer: Any, **options: Any) -> Any:
    return transformers.DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=HIDDEN,
        hidden_dim=2 * HIDDEN,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def _bert_task(class_name: str, **options: Any) -> Callable[[], tuple[Any, ...]]:
    def build() -> tuple[Any, ...]:
        tokenizer = word_tokenizer()
        return getattr(transformers, class_name)(_distilbert(tokenizer, **options)), tokenizer

    return build


def _gpt2(tokenizer: Any | None = None) -> tuple[Any, ...]:
    tokenizer = byte_tokenizer() if tokenizer is None else tokenizer
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=HIDDEN,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return transformers.GPT2LMHeadModel(config), tokenizer


def _t5() -> tuple[Any, ...]:
    tokenizer = byte_tokenizer(pad=True)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=HIDDEN,
        d_kv=HIDDEN // 2,
        d_ff=2 * HIDDEN,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return transformers.T5ForConditionalGeneration(config), tokenizer


def _vit() -> tuple[Any, ...]:
    config = transformers.ViTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return transformers.ViTForImageClassification(config), processor


def _wav2vec2() -> tuple[Any, ...]:
    config = transformers.Wav2Vec2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        conv_dim=(16, 16),
        conv_stride=(8, 8),
        conv_kernel=(8, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
        num_labels=2,
    )
    return transformers.Wav2Vec2ForSequenceClassification(config), transformers.Wav2Vec2FeatureExtractor()


def _vilt() -> tuple[Any, ...]:
    tokenizer = word_tokenizer()
    config = transformers.ViltConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        image_size=32,
        patch_size=8,
        max_position_embeddings=64,
        id2label={0: "a fox", 1: "a dog", 2: "nothing"},
        label2id={"a fox": 0, "a dog": 1, "nothing": 2},
    )
    images = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    bert = transformers.BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, model_max_length=40)
    return transformers.ViltForQuestionAnswering(config), transformers.ViltProcessor(images, bert)


_LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
_BUILDERS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "text-classification": _bert_task("DistilBertForSequenceClassification"),
    "token-classification": _bert_task(
        "DistilBertForTokenClassification",
        id2label={0: "O", 1: "A", 2: "B"},
        label2id={"O": 0, "A": 1, "B": 2},
    ),
    "question-answering": _bert_task("DistilBertForQuestionAnswering"),
    "fill-mask": _bert_task("DistilBertForMaskedLM"),
    "feature-extraction": _bert_task("DistilBertModel"),
    "zero-shot-classification": _bert_task(
        "DistilBertForSequenceClassification",
        id2label=_LABELS,
        label2id={label: index for index, label in _LABELS.items()},
    ),
    "text-generation": _gpt2,
    "conversational": _gpt2,
    "text2text-generation": _t5,
    "summarization": _t5,
    "translation": _t5,
    "image-classification": _vit,
    "audio-classification": _wav2vec2,
    "visual-question-answering": _vilt,
}


def save(task: str, folder: Path) -> Path:
    """A folder with a model for the task, the same one each time."""
    torch.manual_seed(0)
    return save_parts(folder, *_BUILDERS[task]())


def save_gpt2(folder: Path, **tokens: bool) -> Path:
    """A model that generates text. tokens: which special tokens its tokenizer has."""
    torch.manual_seed(0)
    return save_parts(folder, *_gpt2(byte_tokenizer(**tokens)))


def save_parts(folder: Path, model: Any, *parts: Any) -> Path:
    # Weights as small as new ones are tell nothing apart.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    for part in (model, *parts):
        part.save_pretrained(folder)
    return folder
