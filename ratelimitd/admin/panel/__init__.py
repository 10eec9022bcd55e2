"""The panel at /admin: server-rendered pages that need neither scripts nor the internet."""
