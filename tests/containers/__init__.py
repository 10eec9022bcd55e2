"""Tests of the compose files and the images, with real containers and three replicas."""
