"""Autoscaling policies that cannot raise.

Serve runs a policy inside its controller's event loop, where one exception in one model's policy stops the control
plane for all models. So a policy only defines `desired()`, a plain computation, and GuardedPolicy calls it safely. The
classes share one module with light imports, because Serve ships a policy class by value.
"""

import math
from typing import Any

# How much of the highest utilisation may be used after replicas have gone.
HOLD = 0.85
# Replicas' worth of work that counts as none: what is left of an average that fades.
NOTHING = 0.01
# Seconds over which refused requests come back: each was told another time.
BACK_S = 30.0


class GuardedPolicy:
    """Calls `desired`. If that fails or returns nonsense, the current target stays.

    The error is kept in the policy's state as `last_error`.
    """

    def desired(self, ctx: Any, state: dict[str, Any]) -> float:
        """The number of replicas wanted, without I/O. Serve applies bounds and delays afterwards."""
        raise NotImplementedError

    def __call__(self, ctx: Any) -> tuple[float, dict[str, Any]]:
        state: dict[str, Any] = {}
        try:
            state.update(ctx.policy_state or {})
            wanted = float(self.desired(ctx, state))
            if not math.isfinite(wanted) or wanted < 0:
                raise ValueError(f"desired() gave {wanted}")
        except Exception as error:
            state["last_error"] = repr(error)[:200]
            wanted = ctx.target_num_replicas
        return wanted, state


class ConcurrencyPolicy(GuardedPolicy):
    """Enough replicas that each has `target_ongoing_requests`, and one more while requests queue.

    Args:
        target_ongoing_requests: requests that one replica serves well at the same time, including waiting ones.
        queue_tolerance: queued requests per replica that do not yet justify another replica.
    """

    def __init__(self, target_ongoing_requests: float, queue_tolerance: float = 1.0):
        if not target_ongoing_requests > 0:
            raise ValueError("target_ongoing_requests must be above 0")
        self.target = target_ongoing_requests
        self.tolerance = queue_tolerance

    def desired(self, ctx: Any, state: dict[str, Any]) -> float:
        wanted = math.ceil(ctx.total_num_requests / self.target)
        running = max(1, ctx.current_num_replicas)
        if ctx.total_queued_requests > self.tolerance * running:
            wanted = max(wanted, running + 1)
        return wanted


class PromisePolicy(GuardedPolicy):
    """The fewest replicas that serve what is asked and keep the next request's wait within `wait_s`.

    Replicas report work in seconds of a fully used replica, refused requests included, so that admission hides no
    demand. The policy wants the least n that serves the work `asked` per second while no replica is used for more than
    `utilisation`, and refused requests as they come back, and that works off what is inside and queued within `wait_s`
    and the time of one request. So it answers a step in the load, or a long queue, in a single decision.

    Fewer replicas are wanted only when they would keep a margin (HOLD), so noise around a boundary starts and stops
    nothing. While a replica reports no work, as one of an older version, the requests under way count instead: a
    replica serves `concurrency` of them at once, each in `service_s` seconds.

    Args:
        wait_s: a part of the time that `slo.yaml` promises; the rest is for the work itself.
        concurrency: requests that one replica serves well at once.
        service_s: seconds per request at that concurrency, until replicas have measured it.
        utilisation: the highest share of a replica that is used, above 0 to 1.
    """

    def __init__(self, wait_s: float, concurrency: float, service_s: float, utilisation: float = 0.8):
        for name, value in (("wait_s", wait_s), ("concurrency", concurrency), ("service_s", service_s)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0")
        if not 0 < utilisation <= 1:
            raise ValueError("utilisation must be above 0 and at most 1")
        self.wait_s = wait_s
        self.concurrency = concurrency
        self.service_s = service_s
        self.utilisation = utilisation

    def desired(self, ctx: Any, state: dict[str, Any]) -> float:
        service_s = state["service_s"] = mean(reported(ctx, "service_s")) or state.get("service_s") or self.service_s
        if not (asked := reported(ctx, "asked")) or reported(ctx, "service_s").keys() - asked.keys():
            return math.ceil(self.by_requests(ctx, service_s) - 1e-9)
        known_s = mean(reported(ctx, "alone_s")) or state.get("alone_s")
        alone_s = state["alone_s"] = known_s or service_s / self.concurrency
        needed = self.by_work(ctx, service_s, alone_s)
        wanted = math.ceil(needed - NOTHING)
        if wanted < ctx.target_num_replicas:
            wanted = min(ctx.target_num_replicas, math.ceil(needed / HOLD - NOTHING))
        return max(wanted, 1 if ctx.total_num_requests > NOTHING else 0)

    def by_work(self, ctx: Any, service_s: float, alone_s: float) -> float:
        """Replicas, in fractions, for what is asked and for what waits to be worked off."""
        asked, inside_s = (sum(reported(ctx, name).values()) for name in ("asked", "inside_s"))
        pending_s = max(reported(ctx, "pending_s").values(), default=0.0)  # the routers' total, told to each replica
        waiting_s = inside_s + ctx.total_queued_requests * alone_s
        return max(asked / self.utilisation + pending_s / BACK_S, waiting_s / (self.wait_s + service_s))

    def by_requests(self, ctx: Any, service_s: float) -> float:
        """The same, from the requests that were let in."""
        ongoing, running = ctx.total_num_requests, max(1, ctx.current_num_replicas)
        for_wait = ongoing * service_s / (self.concurrency * (self.wait_s + service_s))
        busy = min(ongoing, running * self.concurrency) / self.concurrency
        return max(for_wait, busy / self.utilisation)


def reported(ctx: Any, name: str) -> dict[Any, float]:
    """A figure by replica, without those that make no sense. Serve hands over means over `look_back_period_s`."""
    values = (getattr(ctx, "aggregated_metrics", None) or {}).get(name) or {}
    return {replica: value for replica, value in values.items() if value is not None and 0 <= value < math.inf}


def mean(values: dict[Any, float]) -> float:
    """Of those that are known, which are above 0. If there are none, 0."""
    known = [value for value in values.values() if value]
    return sum(known) / len(known) if known else 0.0
