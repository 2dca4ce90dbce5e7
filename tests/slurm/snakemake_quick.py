"""snakemake, with its SLURM plugin asking every second how the jobs are; takes the same arguments.

By itself the plugin waits ten seconds longer after each look at which no job had succeeded, up to
three minutes, and Snakemake's end waits for that too. Jobs call snakemake itself, not this.
"""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def sleep(self) -> None:
    await asyncio.sleep(1)


RemoteExecutor.sleep = sleep
sys.exit(main())
