"""Tests of how the policy of a real store reaches the replicas."""
