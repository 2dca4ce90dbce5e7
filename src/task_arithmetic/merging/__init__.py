"""Merging: task vectors become one. A method is a pure function of named deltas.

Nothing here knows files, configuration or jobs."""
