"""The command line, the demo, the documents, and the service behind a real Envoy."""
