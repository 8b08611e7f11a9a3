"""Store what a finished student predicts at every training position: the targets of a student that teaches itself."""

from jobs.runtime.published import features_of
from jobs.runtime.stage import Details, Job
from jobs.runtime.teachers import write_targets


def build(job: Job) -> Details:
    """Write the targets of the one model among the inputs."""
    [model] = [one.folder for name, one in job.inputs.items() if name.startswith("models/")]
    write_targets(job.config, features_of(job.inputs), [[model]], [1.0], job.output)
    return {}
