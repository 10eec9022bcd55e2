"""Tests of the command line, the demo and the documents, and of the service behind a real Envoy."""
