"""Autoscaling policies that cannot raise.

Serve runs a policy inside its controller's event loop: one exception in one model's policy stops the control plane for
all models. So a policy here is `desired()`, a plain computation, and GuardedPolicy is what calls it. The classes stay
in one module, which imports nothing heavy, because Serve ships a policy class by value.
"""

import math
from typing import Any


class GuardedPolicy:
    """Calls `desired` and keeps the current target when that fails or makes no sense.

    The failure is kept in the policy's state as `last_error`.
    """

    def desired(self, ctx: Any, state: dict[str, Any]) -> float:
        """Replicas wanted; bounds and delays are applied afterwards by Serve. No I/O."""
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
    """As many replicas as it takes to give each `target_ongoing_requests`, and one more while requests queue.

    Args:
        target_ongoing_requests: requests that one replica serves well at the same time, waiting ones included.
        queue_tolerance: queued requests per replica that do not yet call for one more.
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
    """As few replicas as keep the wait that the next request would have within `wait_s`.

    A replica serves `concurrency` requests at once, each in `service_s` seconds; what is beyond waits. With n replicas
    and `ongoing` requests the next one waits (ongoing - n * concurrency) * service_s / (n * concurrency) seconds, and
    the least n for which that is at most `wait_s` is wanted: a long queue is answered at once with as many replicas as
    it takes. A queue says nothing before it is there, so as many are wanted, too, as keep `utilisation` of their places
    busy.

    Args:
        wait_s: a share of what `slo.yaml` promises; the rest is for the work itself.
        concurrency: requests that one replica serves well at once.
        service_s: of one request among so many; what the replicas measure takes its place.
        utilisation: the share of places that are busy when there are just enough.
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
        """The mean of what the replicas measured, 0 if none has answered anything yet."""
        values = ((getattr(ctx, "aggregated_metrics", None) or {}).get("service_s") or {}).values()
        known = [value for value in values if value and math.isfinite(value) and value > 0]
        return sum(known) / len(known) if known else 0.0
