"""What a launcher of ranks tells its processes in their environment, before MPI is asked."""

import os

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")


def launched():
    """(rank, size) of this process as its launcher says; (0, 1) without one."""
    size = max(_numbers(SIZES), default=1)
    return (max(_numbers(RANKS), default=0), size) if size > 1 else (0, 1)


def _numbers(names):
    return [int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()]
