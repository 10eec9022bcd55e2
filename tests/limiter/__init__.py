"""The script, the limiter and the policy on a real store."""
