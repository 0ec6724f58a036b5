"""Two settings of the SLURM executor plugin (2.8) that no option reaches; config.yaml runs this file.

- The plugin asks after its jobs less and less often, down to once in three minutes, whatever
  `seconds-between-status-checks` says. Here that setting counts, so that a failed job is soon reported.
- Jobs whose state it could not learn, because the controller did not answer, it forgets, and then waits for
  them for ever. Here they are asked after again.
"""

from snakemake_executor_plugin_slurm import Executor

_check_active_jobs = Executor.check_active_jobs


async def check_active_jobs(self, active_jobs):
    """Yield the jobs that still run: all of them when the controller answered no query."""
    answered = self._status_query_calls
    async for job in _check_active_jobs(self, active_jobs):
        yield job
    if self._status_query_calls == answered:
        for job in active_jobs:
            yield job


def seconds_between_status_checks(self):
    """Return what the option of that name says."""
    return self.workflow.remote_execution_settings.seconds_between_status_checks


Executor.check_active_jobs = check_active_jobs
Executor.next_seconds_between_status_checks = property(
    seconds_between_status_checks, lambda self, value: None
)
