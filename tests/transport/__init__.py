"""Tests of the transports, their messages, and the client of a running service."""
