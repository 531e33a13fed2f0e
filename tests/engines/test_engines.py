"""What every engine of a task promises, whatever it runs on. On every commit each engine of the registry is tried, on
starter weights in float32 or on tiny ones; variants in other numbers are a part of the release tier."""

import asyncio
import json
from contextlib import aclosing

import numpy as np
import pytest
import starters
import tiny_diffusion
import tiny_graphs
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from patience import patience
from starters import STARTERS

from models.catalog import load_catalog
from models.errors import ContextLengthExceeded, InvalidRequest
from models.registry import backends_of, engine_class
from models.sources import NoSource
from models.specs import Backend, ModelSpec, VariantSpec
from models.tasks import BY_NAME
from models.tasks.chat import GenerationRequest
from models.tasks.images import Picture
from models.tasks.task import Task
from models.tasks.tokens import TokenizeRequest

# Where the starter variant takes long to compute, or is no file that `make models` makes.
TINY = {
    (BY_NAME["chat"], Backend.TRANSFORMERS): starters.shallow_chat,
    (BY_NAME["images"], Backend.ONNX): lambda folder: tiny_graphs.stable_diffusion(
        tiny_diffusion.stable_diffusion(folder / "source"), folder
    ),
    (BY_NAME["upscaling"], Backend.ONNX): tiny_graphs.compact_upscaler,
}
ELSEWHERE = {(BY_NAME["chat"], Backend.VLLM): "runs inside ray.serve.llm: see tests/cluster and tests/serve"}
FAKE = VariantSpec.model_validate({"backend": "fake", "precision": "fp32", "needs": {"cpus": 0, "memory_gib": 0.1}})
MESSAGES = [{"role": "user", "content": "Say that Paris is the capital of France, and then say it once more."}]


def engines_of(task: Task):
    """One parameter for each engine of the registry, and, as a part of the release tier, one for each of the starter's
    other variants that a CPU runs."""
    for backend in backends_of(task):
        why = ELSEWHERE.get((task, backend))
        yield pytest.param(backend, id=f"{task}-{backend}", marks=[pytest.mark.skip(reason=why)] if why else [])
    for name, variant in load_catalog()[STARTERS[task]].variants.items():
        if not variant.needs.gpus and variant.precision != "fp32" and (task, variant.backend) not in ELSEWHERE:
            yield pytest.param(name, id=f"{task}-{name}-{variant.precision}", marks=pytest.mark.models)


def load(task: Task, param: Backend | str, request: pytest.FixtureRequest) -> tuple[ModelSpec, object]:
    """An engine of the starter model of the task, and the model's spec."""
    spec = load_catalog().resolve(STARTERS[task])
    if param is Backend.FAKE:
        fake = {"source": NoSource(kind="none"), "variants": {"fake": FAKE}, "default_variant": "fake"}
        spec = spec.model_copy(update={**fake, "reference": None})
        return spec, starters.load_engine(spec, FAKE)
    if not isinstance(param, Backend):
        made = request.getfixturevalue("artifacts").of(spec, param)
        variant = spec.variant(param)
        return spec, engine_class(task, variant.backend).load(spec, variant, made)
    if (task, param) in TINY:
        folder = TINY[task, param](request.getfixturevalue("tmp_path_factory").mktemp(task.name))
        variant = FAKE.model_copy(update={"backend": param})
        return spec, engine_class(task, param).load(spec, variant, folder)
    (name, *_) = [name for name, row in spec.variants.items() if row.backend is param and not row.needs.gpus]
    return spec, starters.starter(spec.id, name)


@pytest.mark.parametrize("task", STARTERS, ids=str)
def test_every_backend_of_the_registry_is_tried(task):
    tried = {param.values[0] for param in engines_of(task) if isinstance(param.values[0], Backend)}
    assert tried == set(backends_of(task))
    assert Backend.FAKE in tried
    assert set(ELSEWHERE) == {(BY_NAME["chat"], Backend.VLLM)}  # which alone is skipped


@pytest.fixture(scope="module", params=engines_of(BY_NAME["chat"]))
def chat(request):
    return load(BY_NAME["chat"], request.param, request)


@pytest.fixture(scope="module", params=engines_of(BY_NAME["embeddings"]))
def embeddings(request):
    return load(BY_NAME["embeddings"], request.param, request)


@pytest.fixture(scope="module", params=engines_of(BY_NAME["images"]))
def images(request):
    return load(BY_NAME["images"], request.param, request)


@pytest.fixture(scope="module", params=engines_of(BY_NAME["upscaling"]))
def upscaling(request):
    return load(BY_NAME["upscaling"], request.param, request)


@pytest.fixture(scope="module", params=engines_of(BY_NAME["styles"]))
def styles(request):
    return load(BY_NAME["styles"], request.param, request)


def call(**body) -> GenerationRequest:
    return GenerationRequest({"max_tokens": 8, "temperature": 0, **body}, "contract")


async def document(items) -> dict:
    (answer,) = [item async for item in items]
    return json.loads(answer)


async def chunks(items) -> list[dict]:
    *events, done = [item async for item in items]
    assert done == b"data: [DONE]\n\n"
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def adds_up(usage: dict) -> bool:
    return usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("n", [1, 2])
async def test_a_chat_and_its_stream_agree(chat: tuple[ModelSpec, object], n):
    spec, engine = chat
    body = {"messages": MESSAGES, "n": n}
    whole = await document(engine.chat(call(**body)))
    ChatCompletion.model_validate(whole, strict=True)
    parts = await chunks(engine.chat(call(**body, stream=True, stream_options={"include_usage": True})))
    for part in parts:
        ChatCompletionChunk.model_validate(part, strict=True)

    assert whole["model"] == spec.id
    assert whole["id"].endswith("contract")
    assert len(whole["choices"]) == n
    assert {part["id"] for part in parts} == {whole["id"]}
    for answer in whole["choices"]:
        mine = [choice for part in parts for choice in part["choices"] if choice["index"] == answer["index"]]
        assert "".join(choice["delta"].get("content") or "" for choice in mine) == answer["message"]["content"] != ""
        assert mine[0]["delta"]["role"] == answer["message"]["role"] == "assistant"
        reasons = [choice["finish_reason"] for choice in mine]
        assert reasons == [None] * (len(mine) - 1) + [answer["finish_reason"]]
    assert adds_up(whole["usage"])
    assert whole["usage"]["prompt_tokens"] > 0
    assert parts[-1]["usage"] == whole["usage"]
    assert parts[-1]["choices"] == []


async def test_a_completion_and_its_stream_agree(chat):
    _, engine = chat
    whole = await document(engine.complete(call(prompt="Once upon a time")))
    Completion.model_validate(whole, strict=True)
    parts = await chunks(engine.complete(call(prompt="Once upon a time", stream=True)))
    for part in parts:
        assert part["object"] == whole["object"] == "text_completion"
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["choices"][0]["text"] != ""
    assert parts[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert adds_up(whole["usage"])


async def test_max_tokens_ends_with_length(chat):
    _, engine = chat
    answer = await document(engine.chat(call(messages=MESSAGES, max_tokens=2)))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


async def test_a_stop_string_is_not_sent(chat):
    _, engine = chat
    full = (await document(engine.chat(call(messages=MESSAGES))))["choices"][0]["message"]["content"]
    stop = full.split()[2]
    answer = (await document(engine.chat(call(messages=MESSAGES, stop=stop))))["choices"][0]
    assert answer["message"]["content"].rstrip() == full[: full.index(stop)].rstrip()
    assert answer["finish_reason"] == "stop"


async def test_logprobs_cover_the_answer(chat):
    _, engine = chat
    answer = await document(engine.chat(call(messages=MESSAGES, logprobs=True)))
    ChatCompletion.model_validate(answer, strict=True)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) > 1
    assert all(entry["logprob"] <= 0 and bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)


async def test_greedy_answers_repeat(chat):
    _, engine = chat
    first, second = [await document(engine.chat(call(messages=MESSAGES))) for _ in range(2)]
    assert first["choices"] == second["choices"]


async def test_a_closed_iterator_leaves_the_engine_in_order(chat):
    _, engine = chat
    request = call(messages=MESSAGES, stream=True, max_tokens=400)
    async with aclosing(engine.chat(request)) as items:
        await anext(items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    async with asyncio.timeout(patience(60)):
        assert (await document(engine.chat(call(messages=MESSAGES, max_tokens=2))))["choices"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_context_is_refused_before_the_first_item(chat, stream):
    spec, engine = chat
    long = [{"role": "user", "content": "dog " * (spec.limits.context_tokens + 1)}]
    with pytest.raises(ContextLengthExceeded, match=str(spec.limits.context_tokens)):
        await anext(engine.chat(call(messages=long, stream=stream)))


async def test_chat_tokens_round_trip(chat):
    _, engine = chat
    result = await engine.tokenize(TokenizeRequest(text="Paris is a city", return_token_strings=True))
    assert len(result.token_strings) == len(result.tokens) > 1
    assert await engine.detokenize(result.tokens) == "Paris is a city"
    assert (await engine.tokenize(TokenizeRequest(text="Paris"))).token_strings is None
    assert (await engine.tokenize(TokenizeRequest(messages=tuple(MESSAGES)))).tokens
    for wrong in (-1, 1 << 30):
        with pytest.raises(InvalidRequest):
            await engine.detokenize([wrong])


async def test_a_loaded_engine_is_healthy(chat):
    _, engine = chat
    await engine.check_health()


LENGTHS = ["a", "the weather is lovely today", "dog " * 200, "a man is eating food", "b"]


def test_vectors_have_length_one(embeddings):
    spec, engine = embeddings
    vectors = engine.embed(engine.encode(LENGTHS))
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(LENGTHS), spec.settings.dimensions.native)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_batch_is_the_same_as_one_by_one(embeddings, request):
    """To rounding. With few digits to what these leave, most where they are spread over all of a batch: one letter in
    the company of 200 words is the worst there is."""
    _, engine = embeddings
    tokens = engine.encode(LENGTHS)
    single, together = np.concatenate([engine.embed([item]) for item in tokens]), engine.embed(tokens)
    if any(name in request.node.callspec.id for name in ("int8", "bf16")):
        assert np.sum(single * together, axis=1).min() > 0.98
    else:
        np.testing.assert_allclose(together, single, atol=1e-4)


def test_paraphrases_are_nearer_than_other_texts(embeddings, request):
    """But for the fake, which knows no meanings: there a text is nearest to itself."""
    _, engine = embeddings
    texts = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply on Monday."]
    if "fake" in request.node.callspec.id:
        texts[1] = texts[0]
    first, paraphrase, unrelated = engine.embed(engine.encode(texts))
    assert first @ paraphrase > first @ unrelated + 0.3


def test_embedding_is_deterministic(embeddings):
    _, engine = embeddings
    tokens = engine.encode(LENGTHS)
    np.testing.assert_array_equal(engine.embed(tokens), engine.embed(tokens))


def test_texts_together_have_the_tokens_of_each_alone(embeddings):
    _, engine = embeddings
    tokens = engine.encode(LENGTHS)
    assert tokens == [engine.encode([text])[0] for text in LENGTHS]
    assert all(0 <= token < engine.vocabulary_size for item in tokens for token in item)


def test_embedding_tokens_round_trip(embeddings):
    _, engine = embeddings
    tokens = engine.encode(["the weather is lovely"])[0]
    bare = engine.without_special_tokens(tokens)
    assert engine.detokenize(bare) == "the weather is lovely"
    assert len(engine.token_strings(tokens)) == len(tokens)


@pytest.mark.parametrize("length", [1, 2, 50, 1000])
def test_truncated_tokens_fit(embeddings, length):
    _, engine = embeddings
    tokens = engine.encode(["dog " * 200])[0]
    cut = engine.truncate(list(tokens), length)
    assert len(cut) == min(length, len(tokens))
    assert engine.embed([cut]).shape[0] == 1


def picture(engine, prompt: str = "a red circle on blue", **changes) -> Picture:
    settled = {
        "prompt": prompt,
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 1.0,
        "seed": 1,
    }
    return Picture(**{**settled, "seed": 1, "scheduler": engine.schedulers[0], **changes})


def painted(engine, *wanted: Picture) -> list[np.ndarray]:
    """Made in one batch, as integers."""
    batch = [engine.start(each) for each in wanted]
    while going := [each for each in batch if each.step < each.steps]:
        engine.step(going)
    return [pixels.astype(int) for pixels in engine.finish(batch)]


def test_a_picture_takes_its_steps_and_has_its_size(images):
    _, engine = images
    denoising = engine.start(picture(engine, width=32))
    assert (denoising.step, denoising.prompt_tokens > 0) == (0, True)
    for done in range(1, denoising.steps + 1):
        engine.step([denoising])
        assert denoising.step == done
        preview = engine.preview(denoising)
        assert (preview.dtype, preview.ndim) == (np.uint8, 3)
    (pixels,) = engine.finish([denoising])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (64, 32, 3)
    assert engine.largest_batch(64, 64) > 0


def test_a_picture_is_of_its_prompt_and_its_seed(images):
    _, engine = images
    changes = ({}, {}, {"seed": 2}, {"prompt": "a green square"})
    first, again, other_seed, other_prompt = (painted(engine, picture(engine, **change))[0] for change in changes)
    np.testing.assert_array_equal(first, again)
    assert first.std() > 10
    assert np.abs(first - other_seed).max() > 10
    assert np.abs(first - other_prompt).max() > 10


def test_pictures_of_one_batch_are_those_made_alone(images, request):
    _, engine = images
    wanted = [picture(engine), picture(engine, "a green square on white", seed=5), picture(engine, steps=2, seed=9)]
    assert len({engine.start(each).batch_key for each in wanted}) == 1
    in_few_digits = any(few in request.node.callspec.id for few in ("int8", "bf16"))
    for alone, together in zip(wanted, painted(engine, *wanted), strict=True):
        difference = np.abs(painted(engine, alone)[0] - together)
        # In few digits sums are other ones in a batch of another size.
        assert difference.mean() < 4 if in_few_digits else difference.max() <= 1


def test_the_less_strength_the_more_of_a_picture_is_left_and_the_fewer_steps_it_takes(images):
    _, engine = images
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 255
    little, much = (picture(engine, "", image=image, strength=strength, steps=8) for strength in (0.25, 1.0))
    assert engine.start(little).steps < engine.start(much).steps


def test_sizes_are_kept_apart_in_batches(images):
    _, engine = images
    assert engine.start(picture(engine)).batch_key != engine.start(picture(engine, width=32)).batch_key


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return tiny_diffusion.photograph(3, 32)[:, :28]


def test_a_picture_comes_back_larger(upscaling, photograph):
    spec, engine = upscaling
    large = engine.upscale(photograph)
    assert large.dtype == np.uint8
    assert large.shape == (32 * spec.settings.scale, 28 * spec.settings.scale, 3)
    assert large.std() > 5
    np.testing.assert_array_equal(large, engine.upscale(photograph))
    assert engine.upscale(photograph[:1, :1]).shape == (spec.settings.scale, spec.settings.scale, 3)


def test_what_is_drawn_depends_on_the_picture_and_stays_in_its_place(upscaling, photograph):
    _, engine = upscaling
    changed = photograph.copy()
    changed[:, 20:] = 255 - changed[:, 20:]
    difference = np.abs(engine.upscale(photograph).astype(int) - engine.upscale(changed)).max((0, 2))
    assert difference[-16:].max() > 20
    assert difference[:8].max() <= 1


def test_upscaling_can_be_stopped_on_the_way(upscaling, photograph):
    _, engine = upscaling

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale(photograph, stop)
    assert engine.upscale(photograph[:4, :4]).shape[2] == 3


@pytest.mark.parametrize("size", [(32, 28), (5, 9)])
def test_a_picture_is_painted_in_its_own_size(styles, photograph, size):
    spec, engine = styles
    image = photograph[: size[0], : size[1]]
    for style in (spec.settings.styles[0], photograph[:20, :9]):
        result = engine.stylize(image, style)
        assert result.dtype == np.uint8
        assert result.shape == image.shape
        assert np.abs(result.astype(int) - image).max() > 10


def test_paintings_are_of_their_style_and_repeat(styles, photograph):
    spec, engine = styles
    wanted = (*spec.settings.styles[:2], solid(220, 30, 30), solid(30, 60, 220))
    first, other, red, blue = (engine.stylize(photograph, style).astype(int) for style in wanted)
    assert np.abs(first - other).mean() > 4
    assert red[..., 0].mean() > blue[..., 0].mean() + 10
    assert blue[..., 2].mean() > red[..., 2].mean() + 10
    np.testing.assert_array_equal(first, engine.stylize(photograph, spec.settings.styles[0]))


def solid(*colour: int) -> np.ndarray:
    return np.full((40, 40, 3), colour, np.uint8)
