"""What a model would have answered: made up, always the same, and telling what was asked."""

import base64
import math
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchflow.simulator import ids

_Body = Mapping[str, Any]

#: Characters in a token, about.
_CHARS_PER_TOKEN = 4
#: How much of a request is echoed, in characters.
_ECHO_CHARS = 400
#: Levels of lists and objects in which text is looked for.
_DEEPEST = 8
_SMALL_EMBEDDING, _LARGE_EMBEDDING = 1536, 3072
_MODERATION_CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of a successful response, and the tokens that it cost."""

    body: dict[str, Any]
    input_tokens: int
    output_tokens: int


def tokens_in(text: str) -> int:
    """About how many tokens a text has."""
    return max(1, len(text) // _CHARS_PER_TOKEN)


def text_of(content: object, *, depth: int = 0) -> str:
    """The text in a prompt, an input, messages or content parts."""
    if isinstance(content, str):
        return content
    if depth == _DEEPEST:
        return ""
    if isinstance(content, list):
        return "\n".join(filter(None, (text_of(item, depth=depth + 1) for item in content)))
    if isinstance(content, dict):
        return text_of(content.get("content", content.get("text")), depth=depth + 1)
    return ""


def prompt_text(body: _Body) -> str:
    """All text that a request sends to the model."""
    parts = (body.get(name) for name in ("instructions", "messages", "input", "prompt"))
    return "\n".join(filter(None, (text_of(part) for part in parts)))


def answer(endpoint: str, body: _Body, *, key: str, now: int) -> Answer:
    """The answer to one valid request; `key` makes the ids in it."""
    return _ANSWERS[endpoint](body, key, now)


def _chat(body: _Body, key: str, now: int) -> Answer:
    text, reason = _reply(_last(body["messages"]), body)
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": reason,
        }
        for index in range(body.get("n") or 1)
    ]
    asked, said = tokens_in(prompt_text(body)), tokens_in(text) * len(choices)
    reply = {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": now,
        "model": body["model"],
        "choices": choices,
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_emulator",
    }
    return Answer(reply, asked, said)


def _responses(body: _Body, key: str, now: int) -> Answer:
    text, reason = _reply(_last(body["input"]), body)
    asked, said = tokens_in(prompt_text(body)), tokens_in(text)
    complete = reason == "stop"
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    status = "completed" if complete else "incomplete"
    reply = {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": now,
        "status": status,
        "error": None,
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": [
            {
                "type": "message",
                "id": f"msg_{key}",
                "status": status,
                "role": "assistant",
                "content": [part],
            }
        ],
        "parallel_tool_calls": True,
        "temperature": body.get("temperature", 1.0),
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + said,
        },
    }
    return Answer(reply, asked, said)


def _completions(body: _Body, key: str, now: int) -> Answer:
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    replies = [_reply(text_of(prompt), body) for prompt in prompts]
    asked = sum(tokens_in(text_of(prompt)) for prompt in prompts)
    said = sum(tokens_in(text) for text, _ in replies)
    reply = {
        "id": f"cmpl-{key}",
        "object": "text_completion",
        "created": now,
        "model": body["model"],
        "choices": [
            {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(replies)
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
        },
    }
    return Answer(reply, asked, said)


def _embeddings(body: _Body, key: str, now: int) -> Answer:
    inputs = embedding_inputs(body)
    default = _LARGE_EMBEDDING if "3-large" in body["model"] else _SMALL_EMBEDDING
    size = body.get("dimensions") or default
    vectors = [_vector(str(item), size) for item in inputs]
    packed = body.get("encoding_format") == "base64"
    asked = sum(tokens_in(str(item)) for item in inputs)
    reply = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _packed(vector) if packed else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": body["model"],
        "usage": {"prompt_tokens": asked, "total_tokens": asked},
    }
    return Answer(reply, asked, 0)


def embedding_inputs(body: _Body) -> list[object]:
    """The inputs of an embeddings request; a list of numbers is one input, in tokens."""
    given = body.get("input")
    if isinstance(given, list) and not all(isinstance(item, int) for item in given):
        return given
    return [given]


def _moderations(body: _Body, key: str, now: int) -> Answer:
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    results = []
    for item in inputs:
        violent = "kill" in text_of(item).lower()
        scores = dict.fromkeys(_MODERATION_CATEGORIES, 0.001)
        scores["violence"] = 0.97 if violent else 0.001
        results.append(
            {
                "flagged": violent,
                "categories": {name: score > 0.5 for name, score in scores.items()},
                "category_scores": scores,
            }
        )
    model = body.get("model") or "omni-moderation-latest"
    return Answer({"id": f"modr-{key}", "model": model, "results": results}, 0, 0)


def _images(body: _Body, key: str, now: int) -> Answer:
    asked = tokens_in(prompt_text(body))
    urls = [f"https://images.invalid/{key}-{n}.png" for n in range(body.get("n") or 1)]
    return Answer({"created": now, "data": [{"url": url} for url in urls]}, asked, 0)


def _videos(body: _Body, key: str, now: int) -> Answer:
    reply = {
        "id": f"video_{key}",
        "object": "video",
        "created_at": now,
        "status": "completed",
        "model": body["model"],
        "progress": 100,
    }
    return Answer(reply, tokens_in(prompt_text(body)), 0)


_ANSWERS: dict[str, Callable[[_Body, str, int], Answer]] = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    "/v1/embeddings": _embeddings,
    "/v1/completions": _completions,
    "/v1/moderations": _moderations,
    "/v1/images/generations": _images,
    "/v1/images/edits": _images,
    "/v1/videos": _videos,
}

#: The endpoints that a batch can be for.
ENDPOINTS = tuple(_ANSWERS)


def _last(content: object) -> str:
    """The text of the last message, or of what isn't a list of messages."""
    if isinstance(content, list) and content:
        return text_of(content[-1])
    return text_of(content)


def _reply(asked: str, body: _Body) -> tuple[str, str]:
    """The text that is answered, and why it ends."""
    text = f"Emulated answer to: {asked[:_ECHO_CHARS]}"
    if _wants_json(body):
        return orjson.dumps({"answer": text}).decode(), "stop"
    limits = (body.get(f"max_{name}tokens") for name in ("", "completion_", "output_"))
    limit = min((given for given in limits if given is not None), default=None)
    if limit is not None and tokens_in(text) > limit:
        return text[: limit * _CHARS_PER_TOKEN], "length"
    return text, "stop"


def _wants_json(body: _Body) -> bool:
    text = body.get("text")
    wanted = body.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    return isinstance(wanted, dict) and str(wanted.get("type", "")).startswith("json")


def _vector(text: str, size: int) -> list[float]:
    rng = random.Random(ids.derived(text))  # noqa: S311 - repeatable, not secret
    raw = [rng.uniform(-1, 1) for _ in range(size)]
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [round(x / length, 7) for x in raw]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
