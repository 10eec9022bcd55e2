"""Redis or Valkey: how to reach one, and how its driver's errors become ours."""
