"""The worst case: vLLM's engine process is killed under its replica. Last, because another takes a minute to start."""

import psutil
from asking import Asking
from local_cluster import CHAT, EMBEDDINGS
from patience import patience, wait_until


def test_an_engine_that_dies_is_replaced_and_requests_get_an_honest_503(cluster, http):
    replica = cluster.replica(CHAT)
    orphans = replica.children(recursive=True)
    engine = next(child for child in orphans if "EngineCore" in " ".join(child.cmdline()))
    statuses = []

    def chat() -> bool:
        body = {"model": CHAT, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
        answer = http.post("/v1/chat/completions", json=body | {"max_tokens": 24, "temperature": 0})
        statuses.append(answer.status_code)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert "Paris" in answer.json()["choices"][0]["message"]["content"]
        return answer.is_success and 503 in statuses

    def embed(client):
        return client.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"})

    engine.kill()
    with Asking(cluster.address, embed) as others:
        wait_until(chat, "the answer of another engine", seconds=240, every=0.5)
    print(f"\n{len(statuses)} requests until it was back")
    assert set(statuses) <= {200, 503}
    assert set(others.statuses) == {200}
    assert cluster.replica(CHAT).pid != replica.pid
    _, alive = psutil.wait_procs(orphans, timeout=patience())
    assert not alive, [" ".join(process.cmdline()) for process in alive]
