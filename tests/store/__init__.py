"""Tests of the connections to a store and of its buckets."""
