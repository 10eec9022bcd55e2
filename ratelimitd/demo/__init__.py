"""The whole system on one machine without Docker: real store, real Envoy, replicas, backend."""
