"""Traces: a span per decision and per call to the store. While they are off, OpenTelemetry is not imported.

A span that cannot be made or sent never changes a decision, and no decision waits for one.
"""
