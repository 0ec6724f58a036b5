"""Corrections of the SLURM executor plugin (2.8) that it has no options for; config.yaml runs this file.

- The plugin increases the time between status checks up to three minutes and ignores
  `seconds-between-status-checks`. Here that setting is used, so that a failed job is reported soon.
- If the controller does not answer, the plugin forgets all running jobs and waits for them for ever. Here it
  asks again.
- If the plugin starts slowly, its first status check fails, and it makes no further one. Here it does.
- If a job fails before it writes to its rule's log, the plugin shows no log. Here SLURM's log is shown.
- The plugin's job arrays lose jobs and handle wrong files (see docs/cluster.md). Here jobs and groups with
  equal resources form an array, and each task behaves like a separate job.
"""

import subprocess

import snakemake_executor_plugin_slurm as plugin
from snakemake_executor_plugin_slurm import Executor
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

LINES = 50

_check_active_jobs = Executor.check_active_jobs
_report_job_error = Executor.report_job_error


async def check_active_jobs(self, active_jobs):
    """Yield the jobs that still run; all jobs, if the controller answered no query."""
    if not active_jobs:
        return
    answered = self._status_query_calls
    async for job in _check_active_jobs(self, active_jobs):
        yield job
    if self._status_query_calls == answered:
        for job in active_jobs:
            yield job


def report_job_error(self, job_info, msg=None, **details):
    """Add the last lines of SLURM's log if the log of the rule is empty."""
    log = (job_info.aux or {}).get("slurm_logfile")
    if log is not None and log.exists() and not any(map(has_content, job_info.job.log)):
        lines = log.read_text(errors="replace").splitlines()[-LINES:]
        msg = "\n".join([f"{msg or ''} The end of {log}:", *lines, ""])
    _report_job_error(self, job_info, msg=msg, **details)


def has_content(path):
    """Return whether the file exists and is not empty."""
    try:
        return open(path).read(1) != ""
    except OSError:
        return False


def seconds_between_status_checks(self):
    """Return the value of the option with this name."""
    return self.workflow.remote_execution_settings.seconds_between_status_checks


def run_jobs(self, jobs):
    """Submit jobs that are ready together; those of `slurm-array-jobs` with equal resources as an array."""
    batches = {}
    for job in jobs:
        self.run_job_pre(job)
        wanted = "all" in self.array_jobs or not self.array_jobs.isdisjoint(job.rules)
        batches.setdefault(requested(job) if wanted else job.jobid, []).append(job)
    for batch in batches.values():
        for start in range(0, len(batch), self.max_array_size):
            submit(self, batch[start : start + self.max_array_size])


def requested(job):
    """Return the rules of a job and the resources that are passed to SLURM."""
    own = ("disk", "seeds")
    resources = {name: str(value) for name, value in job.resources.items() if not name.startswith(own)}
    return (*sorted(job.rules), *sorted(resources.items()))


def submit(self, jobs):
    """Submit a job, or several jobs as an array, after earlier submissions."""
    if len(jobs) == 1:
        self._job_submission_executor.submit(self.run_job, *jobs)
    else:
        self._job_submission_executor.submit(run_array, self, jobs)


def run_array(self, jobs):
    """Submit jobs with equal resources as one array.

    SLURM gets one script with the commands of all tasks and stores it.
    """
    first = jobs[0]
    name = f"group_{first.name}" if first.is_group() else f"rule_{first.name}"
    log = self.slurm_logdir / name / "%A_%a.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        plugin.validate_slurm_extra(first)
        settings = {
            "run_uuid": self.run_uuid,
            "slurm_logfile": log,
            "comment_str": f"rule_{first.name}",
            "account": next(self.get_account_arg(first)),
            "partition": self.get_partition_arg(first),
            "workdir": self.workflow.workdir_init,
        }
        call = plugin.get_submit_command(
            first, settings, settings=self.workflow.executor_settings, failed_nodes=self._failed_nodes
        )
        call += plugin.set_gres_string(first) + f" --array=1-{len(jobs)} /dev/stdin"
        tasks = [f"{task}) {self.format_job_exec(job)} ;;" for task, job in enumerate(jobs, 1)]
        script = "\n".join(["#!/bin/sh", 'case "$SLURM_ARRAY_TASK_ID" in', *tasks, "esac", ""])
        done = subprocess.run(call, shell=True, input=script, capture_output=True, text=True)
        if done.returncode != 0:
            raise WorkflowError(f"SLURM sbatch failed: {done.stderr.strip()}\n    sbatch call: {call}")
        array = plugin.validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)
    except Exception as error:
        for job in jobs:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"Not submitted. {error}\n")
        return
    for task, job in enumerate(jobs, 1):
        slurm_id = f"{array}_{task}"
        slurm_log = log.with_name(f"{slurm_id}.log")
        self.logger.info(
            f"Job {job.jobid} has been submitted with SLURM jobid {slurm_id} (log: {slurm_log})."
        )
        self._report_job_submission_threadsafe(
            SubmittedJobInfo(job, external_jobid=slurm_id, aux={"slurm_logfile": slurm_log})
        )


_query_job_status_sacct = plugin.query_job_status_sacct
_query_job_status_squeue = plugin.query_job_status_squeue


def query_job_status_squeue(run):
    """Return the squeue command with one line per task, for pending tasks too."""
    return _query_job_status_squeue(run) + " --array"


def query_job_status_sacct(run):
    """Return the sacct command with task names in the form of the plugin: 12_3."""
    return _query_job_status_sacct(run).replace("JobIdRaw", "JobID")


plugin.query_job_status_sacct = query_job_status_sacct
plugin.query_job_status_squeue = query_job_status_squeue
Executor.run_jobs = run_jobs
Executor.check_active_jobs = check_active_jobs
Executor.report_job_error = report_job_error
Executor.next_seconds_between_status_checks = property(
    seconds_between_status_checks, lambda self, seconds: None
)
