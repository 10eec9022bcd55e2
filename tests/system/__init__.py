"""The command, the demo, the documents, and a real Envoy."""
