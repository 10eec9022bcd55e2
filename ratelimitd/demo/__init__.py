"""The whole system on one machine without Docker: store, Envoy, replicas, backend, admin service."""
