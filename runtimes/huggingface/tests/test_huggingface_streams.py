"""Text that is told as it is generated, until nobody listens any more."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from huggingface_asking import Serve, request, rows

from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest

PROMPT = "the fox"


async def once(*asked: InferenceRequest) -> AsyncIterator[InferenceRequest]:
    for one in asked:
        yield one


@pytest.mark.parametrize(
    ("task", "key"), [("text-generation", "generated_text"), ("summarization", "summary_text")]
)
async def test_pieces_make_the_whole(serve: Serve, task: str, key: str) -> None:
    model = await serve(task)
    given: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
    asked = request(args=[PROMPT], **given)
    pieces = [rows(response)[0][key] async for response in model.predict_stream(once(asked))]
    (whole,) = rows(await model.predict(asked))
    prompt = PROMPT if task == "text-generation" else ""
    assert prompt + "".join(pieces) == whole[key]
    assert len(pieces) > 1


async def test_other_tasks_answer_each_request_once(serve: Serve) -> None:
    model = await serve("text-classification")
    asked = [request(args=[text]) for text in ("a good film", "the dog")]
    streamed = [rows(response) async for response in model.predict_stream(once(*asked))]
    assert streamed == [rows(await model.predict(one)) for one in asked]


async def test_generation_ends_when_the_caller_leaves(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await serve("text-generation")
    forward = model._model.model.forward
    steps = 0

    @functools.wraps(forward)  # old releases look at its signature
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(model._model.model, "forward", counted)
    stream = model.predict_stream(once(request(args=[PROMPT], max_new_tokens=200, eos_token_id=399)))
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    at_the_end = steps
    assert at_the_end < 150
    await asyncio.sleep(0.1)
    assert steps == at_the_end


async def test_generation_ends_when_everybody_who_asked_has_left(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await serve("text-generation")
    forward = model._model.model.forward
    first = threading.Event()
    steps = 0

    @functools.wraps(forward)  # old releases look at its signature
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        first.set()
        return forward(*args, **kwargs)

    monkeypatch.setattr(model._model.model, "forward", counted)
    task = asyncio.create_task(
        model.predict(request(array_inputs=[PROMPT], max_new_tokens=200, eos_token_id=399))
    )
    await asyncio.to_thread(first.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The next one does not wait for 200 tokens of nobody's.
    await model.predict(request(array_inputs=[PROMPT], max_new_tokens=1))
    assert steps < 150


async def test_streams_do_not_wait_for_each_other(serve: Serve) -> None:
    model = await serve("text-generation")
    given: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False}
    prompts = ["the fox", "a good film", "the sea"]

    async def text_of(prompt: str) -> str:
        asked = request(args=[prompt], **given)
        return "".join([rows(r)[0]["generated_text"] async for r in model.predict_stream(once(asked))])

    together = await asyncio.gather(*map(text_of, prompts))
    for prompt, text in zip(prompts, together, strict=True):
        (whole,) = rows(await model.predict(request(args=[prompt], **given)))
        assert whole["generated_text"] == prompt + text


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (request(array_inputs=[PROMPT, PROMPT]), "'array_inputs' has 2 elements, a stream answers one"),
        (request(args=[PROMPT], num_beams=3), "'num_beams': a stream follows one text"),
        (
            request(args=[PROMPT], max_new_tokens=-1),
            "input 'max_new_tokens' is -1, expected a whole number of at least 1",
        ),
    ],
)
async def test_refusals(serve: Serve, asked: InferenceRequest, match: str) -> None:
    model = await serve("text-generation")
    with pytest.raises(MLServerError, match=match) as caught:
        async for _ in model.predict_stream(once(asked)):
            pass
    assert caught.value.status_code == 400
