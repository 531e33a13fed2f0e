"""`medley down`, last."""

import httpx
import pytest
from local_cluster import MEDLEY, end, finished

from medley.local import cluster as local


def test_down_ends_every_process_and_status_says_so(cluster):
    assert local.processes()
    end()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{cluster.address}/healthz", trust_env=False)
    assert finished([*MEDLEY, "status"]).returncode == 2
