"""Accepts anything over HTTP, such as OTLP, and discards it: `python -m uvicorn benchmarks.sink:app`."""


async def app(scope, receive, send):
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
