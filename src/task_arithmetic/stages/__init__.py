"""The stages of a run: their declarations, and those functions that read, compute and write.

What surrounds a job (locks, records, the store) is above."""
