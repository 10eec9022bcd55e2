"""The tests: units beside nothing, the script on a real store, the service, and a real Envoy."""
