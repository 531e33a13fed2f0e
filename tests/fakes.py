"""Real servers around fake engines, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.catalog import load_catalog
from models.engines.embeddings_fake import Engine as FakeEmbeddings

if TYPE_CHECKING:
    from deployments.servers.embeddings import EmbeddingServer

CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "all-minilm-l6-v2"


def fake_embedding_server() -> EmbeddingServer:
    """The real server of embedding models around the fake engine, already loaded."""
    from deployments.servers.batching import LengthBatcher
    from deployments.servers.embeddings import EmbeddingServer

    server = EmbeddingServer.__new__(EmbeddingServer)
    server.spec = load_catalog()[EMBEDDINGS]
    server.variant = server.spec.variant(None)
    server.engine = FakeEmbeddings(server.spec.dimensions.native)
    server.batcher = LengthBatcher(server.engine.embed)
    return server
