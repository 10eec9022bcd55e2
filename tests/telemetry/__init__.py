"""Tests of log lines and observers."""
