"""Generates the Grafana dashboard, dashboards/ratelimitd.json: `python -m deploy.grafana.dashboard`."""
