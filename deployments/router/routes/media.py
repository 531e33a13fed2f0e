"""/v1/media: what links of `response_format: url` lead to."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from deployments.router.media_store import MediaNotFound, format_of
from deployments.router.openapi import BINARY, refusal
from deployments.router.services import Services
from models.media.formats import MEDIA_TYPES

router = APIRouter(tags=["Media"])

RESPONSES = {
    200: {
        "description": "The file.",
        "content": {media_type: {"schema": BINARY} for media_type in MEDIA_TYPES.values()},
    },
    "4XX": refusal("The link has expired or is not one of ours."),
}


@router.get("/v1/media/{name}", summary="A finished file", responses=RESPONSES, response_class=Response)
async def media(request: Request, name: str) -> Response:
    """A picture, a sound or a video, by the signed link that its request was answered with."""
    services: Services = request.app.state.services
    if services.media is None:
        raise MediaNotFound("This cluster keeps no files.")
    query = request.query_params
    data, left = await services.media.get(name, query.get("expires", ""), query.get("signature", ""))
    headers = {
        "cache-control": f"private, max-age={int(left)}",
        "content-disposition": f'inline; filename="{name}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type=MEDIA_TYPES[format_of(name)], headers=headers)
