"""What a change of some models does to the others: nothing. Process ids are the proof."""

import numpy as np
import reference_vectors
from asking import Asking, ask_chat, ask_embeddings
from changes import CHANGED, REMOVED, changed
from local_cluster import EMBEDDINGS, MEDLEY, finished
from patience import wait_until
from picture_files import png
from PIL import Image

from medley.local import cluster as local


def others(pids: dict[str, list[int]]) -> dict[str, list[int]]:
    return {app: ids for app, ids in pids.items() if app not in (EMBEDDINGS, REMOVED)}


def test_a_deploy_under_requests_restarts_what_it_changes_and_nothing_else(cluster, client, http):
    """Another variant of the embedding model, which comes up beside the old one; a model less; another scaling."""
    before, old = cluster.pids(), cluster.replica(EMBEDDINGS)
    with Asking(cluster.address, ask_chat) as chatting, Asking(cluster.address, ask_embeddings) as embedding:
        chatting.until_answered()
        embedding.until_answered()
        cluster.deploy(changed(cluster.document))
        after = cluster.pids()
        chatting.until_answered(2)
        embedding.until_answered(2)
    assert set(chatting.statuses) == {200}
    assert set(embedding.statuses) == {200}
    assert others(after) == others(before)
    assert set(before) - set(after) == {REMOVED}
    assert after[EMBEDDINGS]
    assert not set(after[EMBEDDINGS]) & set(before[EMBEDDINGS])
    wait_until(lambda: not local.lives(old), "the old replica to end")

    card = http.get("/readyz").json()["models"][EMBEDDINGS]
    assert card["variant"] == CHANGED[EMBEDDINGS]
    texts, vectors = reference_vectors.read()
    answer = client.embeddings.create(model=EMBEDDINGS, input=texts)
    assert np.abs(np.array([row.embedding for row in answer.data]) - vectors).max() < 1e-3


def test_a_model_that_was_taken_out_is_said_to_be_so(http, assert_error):
    files = {"image": ("dot.png", png(Image.new("RGB", (16, 16))), "image/png")}
    refused = http.post("/v1/images/upscales", data={"model": REMOVED}, files=files)
    assert_error(refused, 503, "model_not_deployed")


def test_the_same_document_again_restarts_nothing(cluster):
    before = cluster.pids()
    assert "Nothing differs." in cluster.deploy(changed(cluster.document))
    assert cluster.pids() == before


def test_a_document_that_cannot_be_served_is_refused_and_changes_nothing(cluster, http):
    before = cluster.pids()
    wrong = cluster.with_args(EMBEDDINGS, variant="onnx-int3")
    refused = finished([*MEDLEY, "deploy", str(cluster.written(wrong))])
    assert refused.returncode == 1
    assert "onnx-int3" in refused.stderr
    assert cluster.pids() == before
    assert http.get("/readyz").json()["models"][EMBEDDINGS]["variant"] == CHANGED[EMBEDDINGS]
