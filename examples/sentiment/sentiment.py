"""A custom runtime: sentiment of sentences, by a DistilBERT that was fine-tuned for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documents use
from transformers import DistilBertForSequenceClassification, DistilBertTokenizer

from mlserver import MLModel, types
from mlserver.codecs import StringCodec
from mlserver.errors import InferenceError
from mlserver.utils import get_model_uri

INPUT, OUTPUT = "text", "predictions"


class SentimentModel(MLModel):
    """Sentences in, one row of probabilities per sentence out: negative, positive.

    Input: BYTES `text`; each element is a JSON list of sentences. Output: FP32 `predictions`, shape
    [sentences, 2].
    """

    async def load(self) -> bool:
        """Read weights and vocabulary from the folder that `parameters.uri` names."""
        folder = await get_model_uri(self._settings)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # More than a few sentences at a time make a GPU quicker; a CPU would only compute more padding.
        self.at_once = 128 if self.device.type == "cuda" else 8
        self.tokenizer = DistilBertTokenizer.from_pretrained(folder)
        self.model = DistilBertForSequenceClassification.from_pretrained(folder)
        self.model.eval()
        self.model.to(self.device)
        self.ready = True
        return self.ready

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Classify all sentences of a request.

        Raises InferenceError when there is no `text`, or no sentence in it, or something that is no sentence.
        """
        probabilities = self._classify(self._sentences(payload))
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                types.ResponseOutput(
                    name=OUTPUT,
                    shape=list(probabilities.shape),
                    datatype="FP32",
                    data=probabilities.flatten().tolist(),
                )
            ],
        )

    def _sentences(self, payload: types.InferenceRequest) -> list[str]:
        for request_input in payload.inputs:
            if request_input.name == INPUT:
                elements = self.decode(request_input, default_codec=StringCodec)
                sentences = [sentence for element in elements for sentence in _parse(element)]
                if not sentences:
                    raise InferenceError(f"input '{INPUT}' holds no sentence")
                return sentences
        names = ", ".join(f"'{request_input.name}'" for request_input in payload.inputs) or "none"
        raise InferenceError(f"input '{INPUT}' is missing; inputs sent: {names}")

    def _classify(self, sentences: list[str]) -> torch.Tensor:
        """Probabilities on the CPU, shape [sentences, 2]."""
        # Sentences that go through together are padded to the longest: those of about one length had better.
        by_length = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        probabilities = torch.empty(len(sentences), self.model.config.num_labels)
        for start in range(0, len(sentences), self.at_once):
            some = by_length[start : start + self.at_once]
            probabilities[some] = self._forward([sentences[index] for index in some])
        return probabilities

    def _forward(self, sentences: list[str]) -> torch.Tensor:
        """One pass through the model; its attention mask hides the padding."""
        encoded = self.tokenizer(
            sentences,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.model.config.max_position_embeddings,
        )
        with torch.inference_mode():
            logits = self.model(
                input_ids=encoded["input_ids"].to(self.device),
                attention_mask=encoded["attention_mask"].to(self.device),
            ).logits
            return F.softmax(logits.float(), dim=1).cpu()


def _parse(element: object) -> Iterator[str]:
    """The sentences of one element. Raises InferenceError when it is not a JSON list of strings."""
    try:
        sentences = json.loads(element) if isinstance(element, str) else None
    except ValueError:
        sentences = None
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise InferenceError(f"input '{INPUT}' must be a JSON list of strings, such as [\"I liked it.\"]")
    return iter(sentences)
