"""Every task: what it answers is what the pipeline itself answers, however requests share its calls."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_asking import Serve, picture, request, rows, tensor
from mlserver_huggingface.codecs import Conversation, HuggingfaceRequestCodec
from mlserver_huggingface.common import load_pipeline_from_settings
from mlserver_huggingface.settings import HuggingFaceSettings

from mlserver.codecs.decoded import has_decoded
from mlserver.errors import MLServerError

TEXTS = [
    "a good film",
    "the quick brown fox jumps over the lazy dog and an old friend of mine",
    "the dog",
    "a small house by the sea",
]
SHORT = {"max_new_tokens": 5, "do_sample": False}


def close(got: Any, expected: Any) -> None:
    """Equal but for rounding: sums in batches are added up in another order."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            close(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            close(one, other)
    elif isinstance(expected, (float, np.floating)):
        assert got == pytest.approx(float(expected), abs=1e-4)
    else:
        assert got == expected


@pytest.mark.parametrize(
    "task",
    ["text-classification", "token-classification", "fill-mask", "feature-extraction", "text-generation"],
)
async def test_answers_of_transformers(serve: Serve, task: str) -> None:
    model = await serve(task)
    pipe = transformers.pipeline(task, model=model._settings.parameters.uri, device="cpu")
    texts = (
        [text.replace("a ", "[MASK] ", 1) for text in (TEXTS[0], TEXTS[3])] if task == "fill-mask" else TEXTS
    )
    given = SHORT if task == "text-generation" else {}
    for asked, expected in [
        (tensor("args", texts[:1]), pipe(texts[0], **given)),
        (tensor("array_inputs", texts[:1]), pipe(texts[:1], **given)),
        (tensor("array_inputs", texts), pipe(texts, **given)),
        (tensor("inputs", texts), pipe(texts, **given)),
    ]:
        close(rows(await model.predict(request(asked, **given))), expected)


@pytest.mark.parametrize("name", ["args", "array_inputs"])
@pytest.mark.parametrize(
    "task",
    [
        "text-classification",
        "token-classification",
        "fill-mask",
        "feature-extraction",
        "text-generation",
        "summarization",
        "zero-shot-classification",
    ],
)
async def test_company_changes_no_answer(serve: Serve, task: str, name: str) -> None:
    model = await serve(task)
    given: dict[str, Any] = SHORT if task in ("text-generation", "summarization") else {}
    if task == "zero-shot-classification":
        given = {"candidate_labels": ["sport", "films"]}
    texts = [f"[MASK] {text}" for text in TEXTS] if task == "fill-mask" else TEXTS
    asks = [request(tensor(name, [text]), **given) for text in texts]
    asks += [request(tensor(name, texts[:2]), **given), request(tensor(name, texts[1:]), **given)]
    alone = [rows(await model.predict(ask)) for ask in asks]
    together = await asyncio.gather(*(model.predict(ask) for ask in asks))
    close([rows(answer) for answer in together], alone)


async def test_those_with_the_same_arguments_share_calls(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await serve("token-classification")
    calls: list[tuple[int, Any]] = []
    call = model._pipeline.call

    def counted(asked: Any, kwargs: Any) -> Any:
        calls.append((len(asked), kwargs.get("aggregation_strategy")))
        return call(asked, kwargs)

    monkeypatch.setattr(model._pipeline, "call", counted)
    strategies = ["simple", "none"]
    asks = [
        request(tensor("array_inputs", [TEXTS[index % 4]]), aggregation_strategy=strategies[index % 2])
        for index in range(12)
    ]
    answers = [rows(answer) for answer in await asyncio.gather(*map(model.predict, asks))]
    assert sum(size for size, _ in calls) == 12
    assert len(calls) <= 6
    for index, (answer,) in enumerate(answers):
        key = "entity_group" if index % 2 == 0 else "entity"
        assert all(key in entity for entity in answer)


async def test_question_answering(serve: Serve) -> None:
    model = await serve("question-answering")
    context = "the quick brown fox jumps over the lazy dog"
    (answer,) = rows(await model.predict(request(question=["what does the fox say?"], context=[context])))
    assert answer.keys() == {"score", "start", "end", "answer"}
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    assert 0 < answer["score"] <= 1

    long = " ".join([context] * 12)
    asked = request(question=["what does the fox say?", "the dog?"], context=[long, context])
    both = rows(await model.predict(asked))
    for found, text in zip(both, (long, context), strict=True):
        assert text[found["start"] : found["end"]] == found["answer"]
    best = rows(await model.predict(request(question=["the dog?"], context=[context], top_k=3)))
    assert len(best) == 3
    close(best[0], both[1])
    assert [one["score"] for one in best] == sorted((one["score"] for one in best), reverse=True)
    pairs = tensor("array_inputs", [json.dumps({"question": "the dog?", "context": context})], "hg_jsonlist")
    close(rows(await model.predict(request(pairs))), both[1:])


@pytest.mark.parametrize(
    ("task", "key"),
    [("summarization", "summary"), ("translation", "translation"), ("text2text-generation", "generated")],
)
async def test_text_to_text(serve: Serve, task: str, key: str) -> None:
    suffix = {"task_suffix": "_en_to_fr"} if task == "translation" else {}
    model = await serve(task, **suffix)
    answer = rows(await model.predict(request(array_inputs=TEXTS, **SHORT)))
    tokenizer, network = model._model.tokenizer, model._model.model
    for text, row in zip(TEXTS, answer, strict=True):
        ids = network.generate(**tokenizer(text, return_tensors="pt"), **SHORT)
        assert row == {f"{key}_text": tokenizer.decode(ids[0], skip_special_tokens=True)}
    several = await model.predict(
        request(array_inputs=TEXTS[:2], num_return_sequences=2, num_beams=2, **SHORT)
    )
    assert [len(row) for row in rows(several)] == [2, 2]


async def test_zero_shot_classification(serve: Serve) -> None:
    model = await serve("zero-shot-classification")
    (answer,) = rows(
        await model.predict(request(array_inputs=["a good film"], candidate_labels=["sport", "films"]))
    )
    assert answer["sequence"] == "a good film"
    assert sorted(answer["labels"]) == ["films", "sport"]
    assert sum(answer["scores"]) == pytest.approx(1)


async def test_conversation(serve: Serve) -> None:
    model = await serve("conversational")
    said = {"new_user_input": "the fox?", "past_user_inputs": ["the dog"], "generated_responses": ["a film"]}
    asked = request(tensor("array_inputs", [json.dumps(said)], "hg_conversation"), **SHORT)
    (answer,) = rows(await model.predict(asked))
    assert answer["past_user_inputs"] == ["the dog", "the fox?"]
    assert answer["generated_responses"][0] == "a film"
    assert len(answer["generated_responses"]) == 2
    by_codec = HuggingfaceRequestCodec.encode_request(
        {"array_inputs": [Conversation("the fox?")], "max_new_tokens": 5}
    )
    (first,) = rows(await model.predict(by_codec))
    assert first["past_user_inputs"] == ["the fox?"]


@pytest.mark.skipif(
    not hasattr(transformers.PreTrainedTokenizerBase, "apply_chat_template"), reason="knows no chats"
)
async def test_chat(serve: Serve) -> None:
    model = await serve("text-generation")
    model._model.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    messages = [{"role": "user", "content": "the fox?"}]
    asked = request(tensor("array_inputs", [json.dumps(m) for m in messages], "hg_jsonlist"), **SHORT)
    (answer,) = rows(await model.predict(asked))
    assert answer["generated_text"][0] == messages[0]
    assert answer["generated_text"][1]["role"] == "assistant"


async def test_image_classification(serve: Serve) -> None:
    model = await serve("image-classification")
    red, blue = picture("red"), picture("blue", "JPEG")
    (first,), (second,) = [
        rows(await model.predict(request(tensor("inputs", [image], "pillow_image")))) for image in (red, blue)
    ]
    assert first != second
    assert {label["label"] for label in first} == {"LABEL_0", "LABEL_1", "LABEL_2"}
    close(rows(await model.predict(request(inputs=[red, blue]))), [first, second])
    close(rows(await model.predict(request(tensor("inputs", [blue], "base64")))), [second])
    close(rows(await model.predict(request(inputs=[f"data:image/png;base64,{red}"]))), [first])
    pixels = np.zeros((1, 30, 40, 3), np.uint8)
    pixels[..., 0] = 255
    array = tensor("inputs", pixels.tolist(), "nplist", "UINT8")
    close(rows(await model.predict(request(array))), [first])
    together = await asyncio.gather(*(model.predict(request(inputs=[image])) for image in [red, blue] * 4))
    close([rows(answer)[0] for answer in together], [first, second] * 4)
    (top,) = rows(await model.predict(request(inputs=[red], top_k=1)))
    close(top, first[:1])


async def test_audio_classification(serve: Serve) -> None:
    model = await serve("audio-classification")
    samples = np.sin(np.arange(1600, dtype=np.float32) / 10)[None]
    (answer,) = rows(await model.predict(request(tensor("inputs", samples.tolist(), "nplist", "FP32"))))
    assert {label["label"] for label in answer} == {"LABEL_0", "LABEL_1"}
    close(rows(await model.predict(request(tensor("inputs", samples.tolist(), None, "FP32")))), [answer])


@pytest.mark.skipif(
    transformers.__version__ < "5", reason="transformers 4 has a pipeline of its own for this"
)
async def test_questions_about_images(serve: Serve) -> None:
    model = await serve("visual-question-answering")
    asked = {"image": picture(), "question": "what does the fox say?"}
    document = tensor("array_inputs", [json.dumps(asked)], "hg_jsonlist")
    ((*answers,),) = rows(await model.predict(request(document, top_k=2)))
    assert len(answers) == 2
    assert {answer["answer"] for answer in answers} < {"a fox", "a dog", "nothing"}
    assert answers[0]["score"] >= answers[1]["score"]


async def test_pairs_of_texts(serve: Serve) -> None:
    model = await serve("text-classification")
    pairs = [{"text": text, "text_pair": "the dog"} for text in TEXTS[:2]]
    documents = [json.dumps(pair) for pair in pairs]
    answer = rows(await model.predict(request(tensor("array_inputs", documents, "hg_jsonlist"))))
    close(answer, model._model(pairs))
    one = rows(await model.predict(request(tensor("array_inputs", documents[:1], "hg_json"))))
    close(one, answer[:1])


async def test_tensors_that_the_core_merged_keep_their_rows(serve: Serve) -> None:
    model = await serve("text-classification")
    alone = [rows(await model.predict(request(args=[text])))[0] for text in TEXTS]
    merged = rows(await model.predict(request(tensor("args", TEXTS, "str"), id=None)))
    close(merged, alone)
    with pytest.raises(MLServerError, match="'top_k' has 4 values for 4 rows"):
        await model.predict(request(id=None, args=TEXTS, top_k=[1, 1, 1, 1]))


async def test_the_request_is_left_as_it_came(serve: Serve) -> None:
    model = await serve("text-classification")
    asked = request(args=["a good film"])
    first = rows(await model.predict(asked))
    assert not has_decoded(asked.inputs[0])
    close(rows(await model.predict(asked)), first)


@pytest.mark.parametrize("pad", [True, False])
async def test_R52_generation_without_an_end_token(
    serve: Serve, tmp_path: Any, pad: bool, caplog: pytest.LogCaptureFixture
) -> None:
    import huggingface_models as tiny

    folder = tiny.save_gpt2(tmp_path, end=False, pad=pad)
    model = await serve("text-generation", folder, {"max_batch_size": 4, "max_batch_time": 0.1})
    warnings = [r.getMessage() for r in caplog.records if "by itself" in r.getMessage()]
    assert len(warnings) == (0 if pad else 1)
    assert model._pipeline.batch_size == (32 if pad else 1)
    asks = [request(array_inputs=[text], **SHORT) for text in TEXTS]
    alone = [rows(await model.predict(ask)) for ask in asks]
    together = await asyncio.gather(*map(model.predict, asks))
    assert [rows(answer) for answer in together] == alone


@pytest.mark.parametrize("max_batch_size", [0, 1, 8])
async def test_R21_rows_of_one_request_share_calls_whatever_merges_requests(
    serve: Serve, max_batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await serve("text-classification", settings={"max_batch_size": max_batch_size})
    sizes: list[int] = []
    call = model._pipeline.call

    def counted(asked: Any, kwargs: Any) -> Any:
        sizes.append(len(asked))
        return call(asked, kwargs)

    monkeypatch.setattr(model._pipeline, "call", counted)
    assert len(rows(await model.predict(request(array_inputs=TEXTS * 25)))) == 100
    assert sum(sizes) == 100
    assert len(sizes) <= 10
    assert max(sizes) == 25  # of each length there are so many


async def test_threads_device_and_type(serve: Serve) -> None:
    threads = torch.get_num_threads()
    try:
        model = await serve("text-classification", intra_op_threads=1, dtype="float64", device=-1)
        assert torch.get_num_threads() == 1
        assert model._model.model.dtype == torch.float64
        assert model._model.device.type == "cpu"
        assert len(rows(await model.predict(request(args=["a good film"])))) == 1
        own = await serve("question-answering", dtype="float64")
        assert own._model.model.dtype == torch.float64
    finally:
        torch.set_num_threads(threads)


def test_nothing_but_pytorch_is_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys, mlserver_huggingface.runtime\n"
        "print([n for n in ('tensorflow', 'optimum', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "[]"


async def test_images_in_answers_are_data_uris() -> None:
    from mlserver_huggingface.codecs.json import to_json
    from PIL import Image

    mask = Image.new("L", (2, 2), 255)
    answer = json.loads(
        to_json({"mask": mask, "scores": np.float32([0.5, np.nan]), "box": torch.tensor([1])})
    )
    assert answer["mask"].startswith("data:image/png;base64,")
    assert (answer["scores"], answer["box"]) == ([0.5, None], [1])
    import base64

    image = Image.open(io.BytesIO(base64.b64decode(answer["mask"].partition(",")[2])))
    assert image.size == (2, 2)


async def test_the_task_is_known_under_all_its_names(serve: Serve, folder_of: Any) -> None:
    model = await serve("sentiment-analysis", folder=folder_of("text-classification"))
    assert [tensor.name for tensor in model.inputs] == ["args"]


def test_pipelines_of_ours_take_the_place_of_those_that_are_gone(folder_of: Any) -> None:
    settings = HuggingFaceSettings(task="question-answering", device="cpu")
    pipe = load_pipeline_from_settings(settings, str(folder_of("question-answering")))
    answer = pipe(question="the dog?", context="the lazy dog")
    assert answer["answer"] in "the lazy dog"
