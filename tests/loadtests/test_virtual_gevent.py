"""Virtual time itself: it is gevent's own but for the waiting, it ends, and no fault is lost in it."""

import gevent
import pytest
from gevent import monkey, queue, socket
from virtual_gevent import BEGAN, virtual_time


def test_sleeps_timeouts_and_sockets_are_in_order_and_take_no_time():
    seen = []
    with virtual_time() as loop:
        ours, theirs = socket.socketpair()

        def answer():
            while said := theirs.recv(10):
                gevent.sleep(10)
                theirs.sendall(said)

        def ask(after, word):
            gevent.sleep(after)
            ours.sendall(word)
            ours.recv(10)
            seen.append((word, loop.now() - BEGAN))

        gevent.spawn(answer)
        asked = [gevent.spawn(ask, 500, b"late"), gevent.spawn(ask, 2, b"early")]
        with pytest.raises(gevent.Timeout), gevent.Timeout(30):
            gevent.joinall(asked)
        assert loop.now() == BEGAN + 30
        gevent.joinall(asked)
        ours.close()
    assert seen == [(b"early", 12), (b"late", 510)]


def test_who_waits_for_each_other_is_told():
    def wait():
        gevent.sleep(3)
        queue.Queue().get()

    with pytest.raises(AssertionError, match=r"after 3\.0 virtual seconds .* wait for each other"), virtual_time():
        wait()


def test_what_does_not_end_is_ended():
    def for_ever():
        while True:
            gevent.sleep(1)

    with pytest.raises(AssertionError, match="does not end"), virtual_time():
        gevent.spawn(for_ever).join()


def test_a_fault_of_a_greenlet_nobody_waits_for_is_a_failure(capsys):
    with pytest.raises(AssertionError, match="nobody catches me"), virtual_time():
        gevent.wait([gevent.spawn(int, "nobody catches me")])
    assert "nobody catches me" in capsys.readouterr().err


def test_other_tests_of_this_process_keep_their_threads_and_sockets(world):
    """`import locust` would patch them."""
    assert not any(map(monkey.is_module_patched, ("socket", "threading", "time", "subprocess", "ssl", "os")))
    assert world.loop.now() >= BEGAN
