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
