"""What to scrape, what to watch and when to wake somebody: files for Prometheus and Grafana, written from the table of
metrics (deployments/telemetry.py) and from what users are promised (slo.yaml)."""
