"""What docker-compose.tls.yml and docker-compose.socket.yml run once before the other containers."""
