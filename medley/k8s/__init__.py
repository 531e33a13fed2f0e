"""Kubernetes: the overlays of k8s/, what in them is generated, and checks that need no cluster."""
