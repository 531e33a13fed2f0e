"""Valid bodies in which much is asked for, to be spoiled, by their endpoints. One that is not here has its example."""

import base64

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ENCODED = base64.b64encode(PIXEL).decode()
MAKING = {
    "n": 2,
    "size": "64x64",
    "quality": "low",
    "seed": 5,
    "scheduler": "fake",
    "loras": [{"name": "pixel-art", "weight": 0.5}],
    "output_format": "jpeg",
    "output_compression": 50,
    "background": "opaque",
    "response_format": "b64_json",
    "user": "me",
}
PROMPTED = {
    "prompt": "a cat",
    "negative_prompt": "rain",
    "guidance": 3,
    "controls": [{"type": "canny", "image": ENCODED, "weight": 1}],
}
BODIES = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "logit_bias": {"5": 1},
        "stop": ["x"],
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 5,
    },
    "/v1/completions": {"prompt": ["one", "two"], "stop": "x", "logprobs": 1, "echo": False, "seed": 1},
    "/v1/embeddings": {"input": [[1, 2], [3]], "dimensions": 64, "truncate_prompt_tokens": 3},
    "/tokenize": {"prompt": "one", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/v1/images/generations": MAKING | PROMPTED | {"stream": True, "partial_images": 1, "progress": True},
    "/v1/images/edits": MAKING | PROMPTED | {"image": ENCODED, "mask": ENCODED, "strength": 0.5},
    "/v1/images/variations": MAKING | {"image": ENCODED, "strength": 0.5},
    "/v1/images/upscales": {"image": ENCODED, "scale": 4, "output_format": "webp"},
    "/v1/images/styles": {"image": ENCODED, "style_image": ENCODED, "strength": 0.5},
}
