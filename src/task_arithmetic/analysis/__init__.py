"""Analyses of task vectors, of what they were merged into and of what was measured, as pure
functions: no files, no configuration. What needs examples stands in core.
"""
