"""Load tests: open-loop arrivals, verdicts that are right on noisy machines. Speaks HTTP only; knows nothing of the
server's code."""
