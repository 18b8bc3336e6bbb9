"""What several tests need: small data, runs, files, a browser."""
