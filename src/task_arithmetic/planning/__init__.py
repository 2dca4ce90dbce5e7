"""What a run takes before it starts: jobs, disk, hours, requests to a cluster, the state of data.

Nothing here runs a stage."""
