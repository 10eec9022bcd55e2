"""Tests of the processes that the package starts, and of where they listen."""
