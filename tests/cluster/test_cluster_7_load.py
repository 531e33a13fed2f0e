"""`make loadtest` on the same cluster: every task, at a low rate, judged by promises that a slow machine keeps."""

import json
import warnings

from local_cluster import MEDLEY, finished

from loadtest.verdict import Exit


def test_the_smoke_test_keeps_its_promises(cluster, tmp_path):
    options = ["--promises", "cpu-ci", "--rate", "2", "--seconds", "20", "--host", cluster.address]
    before = cluster.pids()
    done = finished([*MEDLEY, "loadtest", "run", "smoke", *options, "--report", str(tmp_path)])
    print(done.stdout[-3000:])
    assert done.returncode in (Exit.PASSED, Exit.INCONCLUSIVE), done.stdout[-3000:] + done.stderr[-3000:]
    if done.returncode == Exit.INCONCLUSIVE:
        warnings.warn("the load test proved too little: fewer requests than its verdicts need", stacklevel=1)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {one["task"] for one in report["models"]} == {"chat", "embeddings", "images", "upscaling", "styles"}
    assert cluster.pids() == before
