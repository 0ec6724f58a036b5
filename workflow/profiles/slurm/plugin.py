"""What the SLURM executor plugin (2.8) does not offer as an option; config.yaml runs this file.

- It asks after its jobs less and less often, down to once in three minutes, whatever
  `seconds-between-status-checks` says. Here that setting counts, so that a failed job is soon reported.
- Jobs whose state it could not learn, because the controller did not answer, it forgets, and then waits for
  them for ever. Here they are asked after again.
- Its first look at them can come before it is ready itself, where it starts slowly; then it never looks
  again.
- Of a job that failed before it wrote to its rule's log, it shows no log at all. Here SLURM's is shown.
- Its job arrays lose jobs and look after the wrong files (docs/cluster.md says how). Here jobs that ask for
  the same, groups too, make an array, and each task is what it would be as a job of its own.
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


def run_jobs(self, jobs):
    """Submit jobs that are ready together: those of `slurm-array-jobs` that ask for the same as one array."""
    batches = {}
    for job in jobs:
        self.run_job_pre(job)
        wanted = "all" in self.array_jobs or not self.array_jobs.isdisjoint(job.rules)
        batches.setdefault(what_it_asks_for(job) if wanted else job.jobid, []).append(job)
    for batch in batches.values():
        for start in range(0, len(batch), self.max_array_size):
            submit(self, batch[start : start + self.max_array_size])


def what_it_asks_for(job):
    """Return the rules of a job and its resources, but for those that are not passed to SLURM."""
    own = ("disk", "seeds")
    resources = {name: str(value) for name, value in job.resources.items() if not name.startswith(own)}
    return (*sorted(job.rules), *sorted(resources.items()))


def submit(self, jobs):
    """Submit a job, or several as an array, after those before it."""
    if len(jobs) == 1:
        self._job_submission_executor.submit(self.run_job, *jobs)
    else:
        self._job_submission_executor.submit(run_array, self, jobs)


def run_array(self, jobs):
    """Submit jobs that ask for the same as one array.

    SLURM gets, and keeps, one script with the command of every task.
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
    """Return the command that asks squeue, with a line for every task, pending ones too."""
    return _query_job_status_squeue(run) + " --array"


def query_job_status_sacct(run):
    """Return the command that asks sacct, which names a task as the plugin does: 12_3."""
    return _query_job_status_sacct(run).replace("JobIdRaw", "JobID")


plugin.query_job_status_sacct = query_job_status_sacct
plugin.query_job_status_squeue = query_job_status_squeue
Executor.run_jobs = run_jobs
Executor.check_active_jobs = check_active_jobs
Executor.report_job_error = report_job_error
Executor.next_seconds_between_status_checks = property(
    seconds_between_status_checks, lambda self, seconds: None
)
