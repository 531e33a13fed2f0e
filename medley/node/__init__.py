"""What Kubernetes asks of the pod of a Ray node: is it ready, and may it go. Nothing here imports Ray."""
