"""Model responses: deterministic, in OpenAI's format, with the text of the request."""

import base64
import math
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchflow.simulator.engine import ids

_Body = Mapping[str, Any]

#: The approximate number of characters in a token.
_CHARS_PER_TOKEN = 4
#: The most characters of a request that its response repeats.
_ECHO_CHARS = 400
#: The deepest level of nested lists and objects that is searched for text.
_MAX_DEPTH = 8
_SMALL_EMBEDDING, _LARGE_EMBEDDING = 1536, 3072
_MODERATION_CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """The body of a successful response, and its token usage."""

    body: dict[str, Any]
    input_tokens: int
    output_tokens: int


def tokens_in(text: str) -> int:
    """Return the approximate number of tokens in a text."""
    return max(1, len(text) // _CHARS_PER_TOKEN)


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return the usage of a response or of a batch."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def text_of(content: object, *, depth: int = 0) -> str:
    """Return the text of a prompt, an input, messages or content parts."""
    if isinstance(content, str):
        return content
    if depth == _MAX_DEPTH:
        return ""
    if isinstance(content, list):
        return "\n".join(filter(None, (text_of(item, depth=depth + 1) for item in content)))
    if isinstance(content, dict):
        return text_of(content.get("content", content.get("text")), depth=depth + 1)
    return ""


def prompt_text(body: _Body) -> str:
    """Return all text that a request sends to the model."""
    parts = (body.get(name) for name in ("instructions", "messages", "input", "prompt"))
    return "\n".join(filter(None, (text_of(part) for part in parts)))


def respond(endpoint: str, body: _Body, *, key: str, now: int) -> ModelResponse:
    """Return the response to a valid request; the ids in it derive from `key`."""
    return _RESPONDERS[endpoint](body, key, now)


def _chat(body: _Body, key: str, now: int) -> ModelResponse:
    text, reason = _reply(_last_text(body["messages"]), body)
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": reason,
        }
        for index in range(body.get("n") or 1)
    ]
    input_tokens, output_tokens = tokens_in(prompt_text(body)), tokens_in(text) * len(choices)
    reply = {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": now,
        "model": body["model"],
        "choices": choices,
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_emulator",
    }
    return ModelResponse(reply, input_tokens, output_tokens)


def _responses(body: _Body, key: str, now: int) -> ModelResponse:
    text, reason = _reply(_last_text(body["input"]), body)
    input_tokens, output_tokens = tokens_in(prompt_text(body)), tokens_in(text)
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
        "usage": usage(input_tokens, output_tokens),
    }
    return ModelResponse(reply, input_tokens, output_tokens)


def _completions(body: _Body, key: str, now: int) -> ModelResponse:
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    replies = [_reply(text_of(prompt), body) for prompt in prompts]
    input_tokens = sum(tokens_in(text_of(prompt)) for prompt in prompts)
    output_tokens = sum(tokens_in(text) for text, _ in replies)
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
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
    }
    return ModelResponse(reply, input_tokens, output_tokens)


def _embeddings(body: _Body, key: str, now: int) -> ModelResponse:
    inputs = embedding_inputs(body)
    default = _LARGE_EMBEDDING if "3-large" in body["model"] else _SMALL_EMBEDDING
    size = body.get("dimensions") or default
    vectors = [_vector(str(item), size) for item in inputs]
    is_base64 = body.get("encoding_format") == "base64"
    input_tokens = sum(tokens_in(str(item)) for item in inputs)
    reply = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _to_base64(vector) if is_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": body["model"],
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }
    return ModelResponse(reply, input_tokens, 0)


def embedding_inputs(body: _Body) -> list[object]:
    """Return the inputs of an embeddings request; a list of tokens is one input."""
    given = body.get("input")
    if isinstance(given, list) and not all(isinstance(item, int) for item in given):
        return given
    return [given]


def _moderations(body: _Body, key: str, now: int) -> ModelResponse:
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
    return ModelResponse({"id": f"modr-{key}", "model": model, "results": results}, 0, 0)


def _images(body: _Body, key: str, now: int) -> ModelResponse:
    input_tokens = tokens_in(prompt_text(body))
    urls = [f"https://images.invalid/{key}-{n}.png" for n in range(body.get("n") or 1)]
    return ModelResponse({"created": now, "data": [{"url": url} for url in urls]}, input_tokens, 0)


def _videos(body: _Body, key: str, now: int) -> ModelResponse:
    reply = {
        "id": f"video_{key}",
        "object": "video",
        "created_at": now,
        "status": "completed",
        "model": body["model"],
        "progress": 100,
    }
    return ModelResponse(reply, tokens_in(prompt_text(body)), 0)


_RESPONDERS: dict[str, Callable[[_Body, str, int], ModelResponse]] = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    "/v1/embeddings": _embeddings,
    "/v1/completions": _completions,
    "/v1/moderations": _moderations,
    "/v1/images/generations": _images,
    "/v1/images/edits": _images,
    "/v1/videos": _videos,
}

#: The endpoints that a batch can use.
ENDPOINTS = tuple(_RESPONDERS)


def _last_text(content: object) -> str:
    """Return the text of the last message, or of content that is not a list."""
    if isinstance(content, list) and content:
        return text_of(content[-1])
    return text_of(content)


def _reply(prompt: str, body: _Body) -> tuple[str, str]:
    """Return the text of the response and its finish reason."""
    text = f"Emulated answer to: {prompt[:_ECHO_CHARS]}"
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


def _to_base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
