"""What lies on disk: artifacts, hashes, metrics, records, datasets and what was downloaded.

Nothing here knows an encoder or a configuration."""
