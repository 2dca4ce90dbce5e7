"""Analyses of task vectors, and of what they were merged into, as pure functions: no files, no
configuration. What needs examples stands in core.
"""
