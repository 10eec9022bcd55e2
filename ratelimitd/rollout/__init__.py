"""Policies in the store: revisions, the follower that keeps the newest one in force, and the replicas."""
