"""/v1/images: make pictures, change them, enlarge them, give them a style."""

from fastapi import APIRouter

from deployments.router.routes.images import changing, making

router = APIRouter()
router.include_router(making.router)
router.include_router(changing.router)
