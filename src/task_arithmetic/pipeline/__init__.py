"""What surrounds the stages in a run: jobs, locks, GPUs, the store, labels of code, status.

Nothing here may change a result. Whether one is made again is Snakemake's decision, by a rule's
inputs and parameters, one of which is the label of the stage's code (rerun.stage_code, of
code.code_hash); a job that then runs (jobs.py) takes its outputs from the store if it holds them
(identity.fingerprint_of, store.take); why.py tells of it.
"""
