"""Autoscaling policies that cannot raise.

Serve runs a policy inside its controller's event loop, where one exception in one model's policy stops the control
plane for all models. So a policy only defines `desired()`, a plain computation, and GuardedPolicy calls it safely. The
classes share one module with light imports, because Serve ships a policy class by value.
"""

import math
from typing import Any


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
    """The fewest replicas that keep the next request's wait within `wait_s`.

    A replica serves `concurrency` requests at once, each in `service_s` seconds; the others wait. With n replicas and
    `ongoing` requests, the next one waits (ongoing - n * concurrency) * service_s / (n * concurrency) seconds. The
    policy wants the least n for which that is at most `wait_s`, so it reacts to a long queue in a single step. It also
    wants enough replicas to keep no more than `utilisation` of their places busy, to act before a queue forms.

    Args:
        wait_s: a part of the time that `slo.yaml` promises; the rest is for the work itself.
        concurrency: requests that one replica serves well at once.
        service_s: seconds per request at that concurrency, until replicas have measured it.
        utilisation: the highest share of busy places, above 0 to 1.
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
        service_s = state["service_s"] = self.measured(ctx) or state.get("service_s") or self.service_s
        ongoing, running = ctx.total_num_requests, max(1, ctx.current_num_replicas)
        for_wait = ongoing * service_s / (self.concurrency * (self.wait_s + service_s))
        busy = min(ongoing, running * self.concurrency) / self.concurrency
        return math.ceil(max(for_wait, busy / self.utilisation) - 1e-9)

    def measured(self, ctx: Any) -> float:
        """The mean of the replicas' measurements; 0 if none has answered a request yet."""
        values = ((getattr(ctx, "aggregated_metrics", None) or {}).get("service_s") or {}).values()
        known = [value for value in values if value and math.isfinite(value) and value > 0]
        return sum(known) / len(known) if known else 0.0
