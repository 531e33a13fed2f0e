"""A hub of gevent whose time is virtual: it stands still while anything can run, and then goes on to what is due next.

Sleeps, timeouts and sockets are gevent's own. Seconds cost nothing, a slow machine changes nothing, and all runs are
the same. Sockets must be pairs within this process (`gevent.socket.socketpair`): of what comes from elsewhere, such as
another process or a name server, virtual time knows nothing and would run away from it.
"""

import contextlib
import heapq
import itertools

import gevent
from gevent.hub import Hub, set_hub

# Far from the times of this machine, so that what mixes the clocks is seen at once.
BEGAN, UNIX = 5_000_000.0, 1_700_000_000.0


class Timer:
    """What gevent asks of the timers of a loop."""

    pending, ref = False, True

    def __init__(self, loop, after, repeat):
        assert not repeat, "nothing here repeats"
        self.loop, self.after = loop, after
        self.callback = self.args = None
        self.turn = 0

    @property
    def active(self):
        return self.callback is not None

    def start(self, callback, *args, update=None):
        self.callback, self.args = callback, args
        self.turn = next(self.loop.turns)
        heapq.heappush(self.loop.due, (self.loop.now() + max(0.0, self.after), self.turn, self))

    def stop(self):
        self.callback = self.args = None

    close = stop

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Loop(gevent.config.loop):
    """
    Attributes:
        limit: seconds of virtual time after which it is a failure that nothing has ended.
    """

    limit = 4000.0

    def __init__(self):
        super().__init__(default=False)
        self.moment = BEGAN
        self.due, self.turns = [], itertools.count(1)
        # Idle watchers are called when nothing else can be: no socket is ready and no greenlet waits for its turn.
        self.idler = self.idle()
        self.idler.start(self.go_on)

    def now(self):
        return self.moment

    def unix(self):
        return UNIX + self.moment - BEGAN

    def timer(self, after, repeat=0.0, ref=True, priority=None):
        return Timer(self, after, repeat)

    def go_on(self):
        """To what is due next. One at a time: what follows from it comes first."""
        while self.due:
            when, turn, timer = heapq.heappop(self.due)
            if timer.active and timer.turn == turn:
                break
        else:
            self.fail("nobody can run and nothing is due: they wait for each other")
        self.moment = max(self.moment, when)
        if self.moment > BEGAN + self.limit:
            self.fail("this does not end")
        callback, args = timer.callback, timer.args
        timer.stop()
        callback(*args)

    def fail(self, why):
        self.idler.stop()
        gevent.get_hub().parent.throw(AssertionError(f"after {self.moment - BEGAN:.1f} virtual seconds {why}"))


class FaithfulHub(Hub):
    """Keeps what ends a greenlet with an exception, where gevent only prints it."""

    def __init__(self, loop):
        super().__init__(loop)
        self.faults = []

    def handle_error(self, context, kind, value, tb):
        if not issubclass(kind, self.NOT_ERROR):
            self.faults.append(value)
        if not issubclass(kind, (Exception, *self.NOT_ERROR)):  # a test that ends: out of time, or interrupted
            self.parent.throw(value)
        super().handle_error(context, kind, value, tb)


@contextlib.contextmanager
def virtual_time():
    """The loop of this thread's hub meanwhile."""
    hub = FaithfulHub(Loop())
    set_hub(hub)
    try:
        yield hub.loop
        assert not hub.faults, hub.faults
    finally:
        hub.loop.idler.stop()
        hub.destroy(destroy_loop=True)
