"""What runs beside the service: Prometheus and Grafana."""
