"""Usage over time and top users: replicas add to series in the store, operators read them."""
