"""Tests of running processes and of choosing ports."""
