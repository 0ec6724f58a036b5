"""What the SLURM executor plugin (2.8) does not offer as an option; config.yaml runs this file.

- It asks after its jobs less and less often, down to once in three minutes, whatever
  `seconds-between-status-checks` says. Here that setting counts, so that a failed job is soon reported.
- Jobs whose state it could not learn, because the controller did not answer, it forgets, and then waits for
  them for ever. Here they are asked after again.
- Its first look at them can come before it is ready itself, where it starts slowly; then it never looks again.
- Of a job that failed before it wrote to its rule's log, it shows no log at all. Here SLURM's is shown.
"""

from snakemake_executor_plugin_slurm import Executor

LINES = 50

_check_active_jobs = Executor.check_active_jobs
_report_job_error = Executor.report_job_error


async def check_active_jobs(self, active_jobs):
    """Yield the jobs that still run: all of them when the controller answered no query."""
    if not active_jobs:
        return
    answered = self._status_query_calls
    async for job in _check_active_jobs(self, active_jobs):
        yield job
    if self._status_query_calls == answered:
        for job in active_jobs:
            yield job


def report_job_error(self, job_info, msg=None, **details):
    """Add the last lines of SLURM's log where the rule's log has none."""
    log = (job_info.aux or {}).get("slurm_logfile")
    if log is not None and log.exists() and not any(map(has_content, job_info.job.log)):
        lines = log.read_text(errors="replace").splitlines()[-LINES:]
        msg = "\n".join([f"{msg or ''} The end of {log}:", *lines, ""])
    _report_job_error(self, job_info, msg=msg, **details)


def has_content(path):
    """Return whether there is such a file, and something in it."""
    try:
        return open(path).read(1) != ""
    except OSError:
        return False


def seconds_between_status_checks(self):
    """Return what the option of that name says."""
    return self.workflow.remote_execution_settings.seconds_between_status_checks


Executor.check_active_jobs = check_active_jobs
Executor.report_job_error = report_job_error
Executor.next_seconds_between_status_checks = property(
    seconds_between_status_checks, lambda self, seconds: None
)
