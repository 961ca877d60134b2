#!/usr/bin/env bash
#SBATCH --job-name=semppl
#SBATCH --nodes=2                    # hosts
#SBATCH --ntasks-per-node=1          # one torchrun a host; it starts a process a GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96           # decoding wants many: 11 workers for each of 8 processes
#SBATCH --time=24:00:00
#SBATCH --requeue                    # a preempted job comes back and goes on from its last checkpoint
#SBATCH --signal=TERM@120            # SIGTERM two minutes before the end: the step ends, the run is saved
# Usage: sbatch scale/scripts/slurm.sh imagenet_1pct --name semppl --data FOLDER --label-list 1percent.txt
set -eu
export SEMPPL_RUNS="${SEMPPL_RUNS:-$PWD/runs}"        # a folder that all hosts see
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1           # restarted workers must not find the dead ones' addresses
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)  # where processes meet
srun --kill-on-bad-exit=1 .venv/bin/python -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc-per-node=8 --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:29500" --rdzv-id="$SLURM_JOB_ID" \
  scale/train.py "$@" --workers 11 --save-every 100 --tensorboard
