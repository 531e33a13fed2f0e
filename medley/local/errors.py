class ClusterError(Exception):
    """The cluster did not do what was asked; the message says why and what to do."""
