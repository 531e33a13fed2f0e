"""A client that asks without end while a test changes or breaks something."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from local_cluster import CHAT, EMBEDDINGS, REQUEST_S
from patience import patience, wait_until

# Between an answer and the next request: who asks without a pause takes the machine from what comes up.
PAUSE_S = 0.1

Ask = Callable[[httpx.Client], httpx.Response]


def ask_chat(http: httpx.Client) -> httpx.Response:
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    return http.post("/v1/chat/completions", json=body)


def ask_embeddings(http: httpx.Client) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "a ship"})


class Asking:
    """Asks in a loop, from a thread, and counts the statuses. What it raises there, such as a connection that was cut
    or an assertion, is raised where it ends: a client that fell silent is no client that was served.

    Args:
        ask: sends one request. check: looks at each answer.
    """

    def __init__(self, address: str, ask: Ask, check: Callable[[httpx.Response], None] = lambda _: None):
        self.address, self.ask, self.check = address, ask, check
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self):
        self._loop = self._pool.submit(self._run)
        return self

    def __exit__(self, failed, *_):
        self._stop.set()
        self._pool.shutdown()
        if not failed:
            self._loop.result()

    def until_answered(self, more: int = 1) -> None:
        """Wait until so many more requests have had an answer."""
        wanted = self.statuses.total() + more
        wait_until(lambda: self._loop.done() or self.statuses.total() >= wanted, "answers to a client", REQUEST_S)
        assert not self._loop.done(), self._loop.exception()

    def _run(self) -> None:
        with httpx.Client(base_url=self.address, timeout=patience(REQUEST_S), trust_env=False) as http:
            while not self._stop.wait(PAUSE_S):
                answer = self.ask(http)
                self.statuses[answer.status_code] += 1
                self.check(answer)
