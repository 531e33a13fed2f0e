"""/v1/images: make pictures, change them, vary them, in OpenAI's form."""

from deployments.router.routes.images.endpoints import EXAMPLE, router

__all__ = ["EXAMPLE", "router"]
