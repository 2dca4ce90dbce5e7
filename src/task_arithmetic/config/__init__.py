"""What a configuration and its definitions may say, and what of them each stage depends on.

What is wrong is said in one sentence."""
