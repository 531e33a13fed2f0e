"""A model that sleeps until it is asked for, sleeps again, and wakes again; and the way back to the first document."""

import numpy as np
from asking import Asking, ask_chat, ask_embeddings
from changes import REMOVED, STYLES
from local_cluster import EMBEDDINGS, MEDLEY, REQUEST_S, run
from patience import patience, wait_until
from picture_files import opened, pixels, png

from models.catalog import load_catalog
from workshop.starter.doodle.drawings import Drawing, draw

CONTENT = draw(Drawing("circle", "white", "gray")).resize((128, 128))
WAITS = {"prefer": f"wait={patience(REQUEST_S):.0f}"}


def styled(http, headers):
    style = next(iter(load_catalog()[STYLES].settings.styles))
    files = {"image": ("content.png", png(CONTENT), "image/png")}
    return http.post("/v1/images/styles", data={"model": STYLES, "style": style}, files=files, headers=headers)


def picture(answer) -> np.ndarray:
    return pixels(opened(answer.raise_for_status().json()["data"][0]["b64_json"]))


def sleeps(cluster, http) -> bool:
    return http.get(f"/v1/models/{STYLES}").json()["state"] == "scaled_to_zero" and not cluster.pids()[STYLES]


def test_a_model_wakes_sleeps_and_wakes_again(cluster, http, assert_error):
    wait_until(lambda: sleeps(cluster, http), "a model that nobody asks for to sleep", every=0.2)
    refused = styled(http, {"prefer": "wait=0"})
    assert_error(refused, 503, "model_starting")
    assert int(refused.headers["retry-after"]) >= 1

    first = picture(styled(http, WAITS))
    (pid,) = cluster.pids()[STYLES] or [None]
    assert first.shape == (128, 128, 3)
    assert np.abs(first - pixels(CONTENT)).mean() > 10
    wait_until(lambda: sleeps(cluster, http), "the model to go to sleep again", REQUEST_S, every=0.2)
    again = picture(styled(http, WAITS))
    assert np.array_equal(again, first)
    assert cluster.pids()[STYLES] != [pid]


def test_a_rollback_under_requests_brings_back_the_first_document(cluster, http):
    before = cluster.pids()
    with Asking(cluster.address, ask_chat) as chatting, Asking(cluster.address, ask_embeddings) as embedding:
        chatting.until_answered()
        embedding.until_answered()
        run([*MEDLEY, "rollback", "--yes", "--patience", f"{patience(REQUEST_S):.0f}"])
        after = cluster.pids()
        chatting.until_answered(2)
        embedding.until_answered(2)
    assert set(chatting.statuses) == {200}
    assert set(embedding.statuses) == {200}
    apart = {EMBEDDINGS, STYLES, REMOVED}
    assert {app: ids for app, ids in after.items() if app not in apart} == {
        app: ids for app, ids in before.items() if app not in apart
    }
    models = http.get("/readyz").json()["models"]
    assert models[EMBEDDINGS]["variant"] == "onnx"
    assert models[REMOVED]["state"] == "scaled_to_zero"
