"""The one clock of a load test: when requests are due, sent and answered. Tests put another in its place."""

from __future__ import annotations

import time

# Seconds that only grow, of this process; and those since 1970, which other machines have too.
now = time.monotonic
unix = time.time
