"""The embedded suite: small tasks, small CLIPs and a small T5, and what pretrained them."""
