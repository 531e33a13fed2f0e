"""A replica that is killed: who asks for its model is told to come back, and who asks for another notices nothing."""

from asking import Asking, ask_chat, ask_embeddings
from local_cluster import EMBEDDINGS, REQUEST_S
from patience import wait_until


def says_when_to_come_back(answer):
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["message"]


def test_a_killed_replica_comes_back_and_harms_no_other_model(cluster, http):
    before, victim = cluster.pids(), cluster.replica(EMBEDDINGS)

    def successor() -> bool:
        pids = cluster.pids().get(EMBEDDINGS)
        return bool(pids) and victim.pid not in pids

    chatting = Asking(cluster.address, ask_chat)
    embedding = Asking(cluster.address, ask_embeddings, says_when_to_come_back)
    with chatting, embedding:
        chatting.until_answered()
        embedding.until_answered()
        victim.kill()
        wait_until(successor, "a new replica", REQUEST_S, every=0.2)
        wait_until(lambda: http.get("/readyz").is_success, "the router to know of it", every=0.2)
        answered = embedding.statuses[200]
        embedding.until_answered(3)
        chatting.until_answered(2)
        assert embedding.statuses[200] > answered
    assert set(chatting.statuses) == {200}
    assert set(embedding.statuses) <= {200, 503}
    assert {**cluster.pids(), EMBEDDINGS: []} == {**before, EMBEDDINGS: []}
    print(f"answers meanwhile: {dict(embedding.statuses)}")
