"""The folder of the running cluster: sockets, logs, and what Ray and HAProxy keep while they run.

Ray and Serve would put them under /tmp, readable and partly writable for every user of the machine.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from medley.local.errors import ClusterError

# One for all users: a second cluster would find its ports taken.
RUN = Path("/tmp/medley")


def run_folder() -> Path:
    """A folder that only this user can enter, made on first use.

    Its name is short, because the path of a socket has at most 107 bytes.

    Raises:
        ClusterError: somebody else made it, or others can enter it.
    """
    folder = RUN
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ClusterError(f"{folder} must be a folder of yours, and is not. Remove it, or ask its owner to.")
    if found.st_mode & 0o077:
        raise ClusterError(f"Others may enter {folder}. Look into it, and remove it: rm -r {folder}")
    return folder


def ray_folder() -> Path:
    """Ray's, with a folder for each session and the link session_latest."""
    return run_folder() / "ray"


def edge_folder() -> Path:
    """HAProxy's."""
    return run_folder() / "edge"


def control_plane_folder() -> Path:
    """Where Ray's control plane (GCS) keeps its state, so that it can be started again."""
    return run_folder() / "gcs"
