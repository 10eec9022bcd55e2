"""The panel in a real browser, over real replicas behind a real Envoy."""
