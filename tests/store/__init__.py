"""The store: its connections and buckets, on a real store."""
