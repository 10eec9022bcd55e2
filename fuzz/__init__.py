"""Sends mutated messages to a service over HTTP/2, and watches a user whom it serves at the same time."""
