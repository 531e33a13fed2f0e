"""/v1/media: what links of `response_format: url` lead to."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from deployments.router.media_store import MediaNotFound
from deployments.router.openapi import refusal
from deployments.router.services import Services

router = APIRouter(tags=["Images"])

RESPONSES = {
    200: {
        "description": "The picture.",
        "content": {f"image/{kind}": {"schema": {"type": "string"}} for kind in ("png", "jpeg", "webp")},
    },
    "4XX": refusal("The link has expired or is not one of ours."),
}


@router.get("/v1/media/{name}", summary="A finished picture", responses=RESPONSES, response_class=Response)
async def media(request: Request, name: str) -> Response:
    """A picture, by the signed link that its request was answered with."""
    services: Services = request.app.state.services
    if services.media is None:
        raise MediaNotFound("This cluster keeps no pictures.")
    query = request.query_params
    data, left = await services.media.get(name, query.get("expires", ""), query.get("signature", ""))
    headers = {
        "cache-control": f"private, max-age={int(left)}",
        "content-disposition": f'inline; filename="{name}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type=f"image/{name.rpartition('.')[2]}", headers=headers)
