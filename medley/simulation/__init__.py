"""`medley simulate`: an autoscaling policy on a trace, without a cluster."""
