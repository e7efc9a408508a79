"""What a request gets wrong is a 400 that names it, before anything is computed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import transformers
from huggingface_asking import Serve, request, rows, tensor

from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest

WORDS = "the quick brown fox"


@pytest.mark.parametrize(
    ("task", "asked", "match"),
    [
        ("text-classification", request(args=[WORDS], top_kk=1), "input 'top_kk' is not known .*top_k"),
        ("text-classification", request(args=[WORDS], tokenizer=["x"]), "input 'tokenizer' is not known"),
        ("text-classification", request(top_k=1), "no input to ask about.*'array_inputs'"),
        ("text-classification", request(args=[]), "input 'args' is empty"),
        ("text-classification", request(args=[WORDS], inputs=[WORDS]), "'args' and 'inputs' both"),
        ("text-classification", request(tensor("args", [1.5])), "input 'args' has datatype FP64"),
        (
            "text-classification",
            request(tensor("args", [WORDS, None])),
            "input 'args': element 1 is NoneType",
        ),
        (
            "text-classification",
            request(tensor("args", [7], None, "BYTES")),
            "input 'args': element 0 is int",
        ),
        (
            "text-classification",
            request(tensor("args", ["aGVsbG8="], "base64")),
            r"input 'args' \(content type 'base64'\): element 0 is bytes",
        ),
        (
            "text-classification",
            request(tensor("args", [WORDS], "pillow_image")),
            "'args': element 0 is no image",
        ),
        (
            "text-classification",
            request(tensor("args", [WORDS], "hg_jsonlist")),
            "'args': element 0 is no JSON",
        ),
        (
            "text-classification",
            request(args=["the " * 100]),
            "input 'args': text 0 has 102 tokens, the model takes 64",
        ),
        (
            "text-classification",
            request(args=[WORDS], function_to_apply=["magic"]),
            "input 'function_to_apply' is 'magic', expected one of sigmoid, softmax, none",
        ),
        (
            "text-classification",
            request(tensor("array_inputs", [json.dumps({"txt": WORDS})], "hg_jsonlist")),
            "input 'array_inputs': ",
        ),
        ("fill-mask", request(array_inputs=[WORDS]), "input 'array_inputs': No mask_token"),
        (
            "token-classification",
            request(args=[WORDS], aggregation_strategy=["none!"]),
            "input 'aggregation_strategy' is 'none!', expected one of none, simple, first, average, max",
        ),
        (
            "token-classification",
            request(args=[WORDS], truncation=True),
            "one of aggregation_strategy, (delimiter, )?ignore_labels, .*offset_mapping, stride$",
        ),
        (
            "token-classification",
            request(args=[WORDS], ignore_labels=5),
            "inputs 'ignore_labels': .*'int' is not iterable",
        ),
        ("question-answering", request(question=["the dog?"]), "input 'context' is missing or empty"),
        (
            "question-answering",
            request(question=["a?"], context=[" "]),
            "input 'context': element 0 is empty",
        ),
        (
            "question-answering",
            request(question=["a?"], context=["a dog", "a fox"]),
            "'question' and 'context' have 1 and 2 elements",
        ),
        (
            "question-answering",
            request(question=["a?"], context=["a"], top_k=0),
            "top_k.*(at least 1|>= 1)",
        ),
        ("zero-shot-classification", request(array_inputs=[WORDS]), "input 'candidate_labels' is missing"),
        (
            "zero-shot-classification",
            request(tensor("candidate_labels", [1.5]), array_inputs=[WORDS]),
            "input 'candidate_labels' holds 1.5, expected text",
        ),
        (
            "fill-mask",
            request(array_inputs=["a [MASK]"], top_k=["x"]),
            "input 'top_k' is .*expected a whole number",
        ),
        (
            "fill-mask",
            request(array_inputs=["a [MASK]"], top_k=1.5),
            "input 'top_k' is 1.5, expected a whole number",
        ),
        ("fill-mask", request(array_inputs=["a [MASK]"], top_k=-1), "'top_k' is -1, expected 0 to"),
        ("fill-mask", request(array_inputs=["a [MASK]"], top_k=10**6), "'top_k' is 1000000, expected 0 to"),
        (
            "fill-mask",
            request(array_inputs=["a [MASK]"], truncation=True),
            "'truncation' is not known .*one of targets, tokenizer_kwargs, top_k$",
        ),
        (
            "fill-mask",
            request(array_inputs=["a [MASK]"], tokenizer_kwargs=["truncation"]),
            r"'tokenizer_kwargs' is \['truncation'\], expected a JSON object",
        ),
        (
            "text-classification",
            request(args=[WORDS], padding=["wide"]),
            "inputs 'padding': wide is not a valid PaddingStrategy",
        ),
        (
            "zero-shot-classification",
            request(array_inputs=[WORDS], candidate_labels=["a"], hypothesis_template=["none"]),
            "hypothesis_template",
        ),
        ("text-generation", request(array_inputs=[WORDS], max_tokens=5), "input 'max_tokens' is not known"),
        ("text-generation", request(array_inputs=[WORDS], max_new_tokens=-5), "'max_new_tokens' is -5"),
        (
            "text-generation",
            request(array_inputs=[WORDS], max_new_tokens=2.5),
            "input 'max_new_tokens' is 2.5, expected a whole number of at least 1",
        ),
        (
            "text-generation",
            request(array_inputs=[WORDS], max_new_tokens=2, do_sample=True, temperature=-1.0),
            r"inputs 'max_new_tokens', 'do_sample', 'temperature': `temperature` \(=-1.0\) has to be",
        ),
        (
            "text-generation",
            request(array_inputs=[WORDS], max_new_tokens=2, do_sample=True, temperature=0.0),
            r"`temperature` \(=0.0\) has to be a strictly positive float",
        ),
        (
            "text-generation",
            request(array_inputs=[WORDS], max_new_tokens=2, do_sample=True, top_k=-5),
            "`top_k` has to be a strictly positive integer, but is -5",
        ),
        (
            "text-generation",
            request(array_inputs=[WORDS], max_new_tokens=2, repetition_penalty=-1.0),
            "`penalty` has to be a strictly positive float, but is -1.0",
        ),
        (
            "text-generation",
            request(array_inputs=[WORDS], max_new_tokens=2, bad_words_ids=["dog"]),
            "`bad_words_ids` has to be a list of lists",
        ),
        (
            "text-generation",
            request(array_inputs=[WORDS], assistant_early_exit=1),
            "'assistant_early_exit' is not known",
        ),
        (
            "text-generation",
            request(tensor("do_sample", [False]), array_inputs=["a"], max_new_tokens=600, min_new_tokens=500),
            "input 'max_new_tokens' is 600, but text 0 has 1 tokens already, and the model takes 256",
        ),
        ("text-generation", request(array_inputs=[WORDS], streamer=5), "input 'streamer' is not known"),
        ("image-classification", request(inputs=["bm90IGFuIGltYWdl"]), "'inputs': element 0 is no image"),
        ("image-classification", request(inputs=["/etc/passwd"]), "'inputs': element 0 is no image"),
        ("image-classification", request(tensor("inputs", [[1.0, 2.0]], None, "FP32")), "shape \\[2\\]"),
        ("audio-classification", request(inputs=["/etc/passwd"]), "input 'inputs': element 0 is text"),
        ("conversational", request(array_inputs=["hello"]), "'array_inputs': element 0 is no JSON"),
        ("conversational", request(array_inputs=["{}"]), "element 0 has no `new_user_input`"),
        (
            "conversational",
            request(array_inputs=['{"new_user_input": "a", "generated_responses": "b"}']),
            "`generated_responses` is not a list",
        ),
    ],
)
async def test_refusals(serve: Serve, task: str, asked: InferenceRequest, match: str) -> None:
    model = await serve(task)
    with pytest.raises(MLServerError, match=match) as caught:
        await model.predict(asked)
    assert caught.value.status_code == 400


async def test_no_room_for_what_is_written_by_default(serve: Serve) -> None:
    if not hasattr(transformers.Pipeline, "_default_generation_config"):
        pytest.skip("pipelines of this release write a few tokens by default")
    model = await serve("text-generation")
    asked = request(tensor("do_sample", [False]), array_inputs=["a" * 40], min_new_tokens=250)
    with pytest.raises(MLServerError, match=r"by default \d+ are added.*`max_new_tokens`") as caught:
        await model.predict(asked)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
async def test_a_refusal_takes_nobody_along(serve: Serve, task: str) -> None:
    model = await serve(task)
    text = "the [MASK] fox"
    bad = WORDS if task == "fill-mask" else "the " * 100
    asks = [request(array_inputs=[bad if index == 3 else text]) for index in range(8)]
    expected = rows(await model.predict(asks[0]))
    answers = await asyncio.gather(*map(model.predict, asks), return_exceptions=True)
    for index, answer in enumerate(answers):
        if index == 3:
            assert isinstance(answer, MLServerError)
            assert answer.status_code == 400
        else:
            assert not isinstance(answer, BaseException)
            assert [len(row) for row in rows(answer)] == [len(row) for row in expected]


async def test_a_fault_of_the_model_is_no_refusal(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await serve("text-classification")

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(model._model.model, "forward", broken)
    with pytest.raises(RuntimeError, match="out of order"):
        await model.predict(request(args=[WORDS]))


async def test_what_a_model_is_configured_with_is_its_own_fault(serve: Serve) -> None:
    model = await serve("text-generation")
    configuration = model._model.model.generation_config
    configuration.do_sample, configuration.temperature = True, -1.0
    with pytest.raises(ValueError, match="temperature"):
        await model.predict(request(array_inputs=[WORDS]))


async def test_the_advice_for_long_texts_works(serve: Serve) -> None:
    model = await serve("fill-mask")
    text = "[MASK]" + " the" * 100
    with pytest.raises(MLServerError, match=r"`tokenizer_kwargs` \{\"truncation\": true\}") as caught:
        await model.predict(request(array_inputs=[text]))
    assert caught.value.status_code == 400
    cut = tensor("tokenizer_kwargs", ['{"truncation": true}'], "hg_json")
    assert len(rows(await model.predict(request(cut, array_inputs=[text])))) == 5


async def test_texts_that_end_a_generation(serve: Serve) -> None:
    model = await serve("text-generation")
    greedy = tensor("do_sample", [False])
    asked = {"array_inputs": [WORDS], "max_new_tokens": 20}
    ((whole,),) = rows(await model.predict(request(greedy, **asked)))
    end = whole["generated_text"][len(WORDS) + 2]
    ((short,),) = rows(await model.predict(request(greedy, **asked, stop_strings=[end])))
    assert whole["generated_text"].startswith(short["generated_text"])
    assert len(short["generated_text"]) < len(whole["generated_text"])


async def test_what_is_the_servers_business_is_left_aside(serve: Serve) -> None:
    model = await serve("text-classification")
    plain = rows(await model.predict(request(args=[WORDS])))
    assert rows(await model.predict(request(args=[WORDS], batch_size=4, num_workers=7))) == plain
