"""Clients of a router in this process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import openai
    from fastapi import FastAPI


def http_client(application: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://medley", timeout=30)


@contextlib.asynccontextmanager
async def official_client(application: FastAPI, path: str = "/v1") -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, as the judge of the API. It is imported only here: that takes a second."""
    import httpx2
    import openai

    transport = httpx2.ASGITransport(application, raise_app_exceptions=False)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(api_key="none", base_url=f"http://medley{path}", max_retries=0, http_client=http) as client,
    ):
        yield client
