"""Operations on policies, replicas and buckets. The CLI and the admin service are thin layers on it."""
