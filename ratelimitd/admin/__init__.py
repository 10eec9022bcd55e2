"""The admin service: an HTTP API, a panel, probes and metrics. It takes no part in decisions."""
