"""What operators can do, on a real store."""
