#!/usr/bin/env bash
# One host's part of a run on a TPU slice, by torch_tpu: a process a chip. Not run on a TPU: there was none here.
# Every host of the slice starts it with the same words. What they do not share stands in the environment:
#   TPU_WORKER_HOSTNAMES  all hosts, such as 10.0.0.1,10.0.0.2     NODE_RANK  which of them this is, from 0
#   TORCH_TPU_TOPOLOGY    the chips of the whole slice, such as 4x4
# On a slice of one host none is needed.
# Usage: scale/scripts/tpu_host.sh imagenet_1pct --name semppl --data FOLDER --label-list 1percent.txt
set -eu
python="${PYTHON:-.venv-tpu/bin/python}"
export SEMPPL_RUNS="${SEMPPL_RUNS:-$PWD/runs}"  # a folder that all hosts see
topology=$(echo "${TORCH_TPU_TOPOLOGY:-}" | tr x ,)  # libtpu wants three numbers, by comma
case "$topology" in
  "") ;;
  *,*,*) export TORCH_TPU_TOPOLOGY="$topology" ;;
  *) export TORCH_TPU_TOPOLOGY="$topology,1" ;;
esac
if ! facts=$("$python" -W ignore -m torch.tpu.distributed); then  # addresses of all processes, ranks, where they meet
  echo "$0: torch_tpu is not installed for $python or finds no TPU, see above; use torchrun scale/train.py." >&2
  exit 1
fi
set -a
eval "$facts"
set +a
exec "$python" -m torch.distributed.run --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" \
  --nproc-per-node=$((WORLD_SIZE / ${NNODES:-1})) \
  --master-addr="${MASTER_ADDR:-localhost}" --master-port="${MASTER_PORT:-29500}" scale/train.py "$@"
