#!/usr/bin/env bash
# A run on all hosts of a TPU VM slice, by torch_tpu, started from outside. Not run by us: there was no TPU here.
# Usage: TPU=NAME ZONE=ZONE BUCKET=NAME scale/scripts/tpu_pod.sh imagenet_1pct --name semppl --label-list 1percent.txt
# BUCKET has the folder imagenet-shards (train-*.tar, val-*.tar) and gets the folder runs, which all hosts see.
# The hosts need python3.11 with venv, and gcsfuse.
set -eu
tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
on() { tpu ssh "$TPU" --worker="$1" --command="cd semppl-mini && $2"; }
hosts=$(tpu describe "$TPU" --format='value(networkEndpoints[].ipAddress)' | tr ';' ',')  # in order of their numbers
topology=$(tpu describe "$TPU" --format='value(acceleratorConfig.topology)')               # such as 4x4
tpu scp --recurse --worker=all . "$TPU:semppl-mini"                                        # this checkout
on all "python3.11 -m venv .venv-tpu && .venv-tpu/bin/pip install -r scale/requirements-tpu.txt -e ."
on all "mkdir -p ../imagenet && gsutil -m rsync gs://$BUCKET/imagenet-shards ../imagenet"
on all "mkdir -p bucket && { mountpoint -q bucket || gcsfuse --implicit-dirs $BUCKET bucket; }"
n=0
for _ in ${hosts//,/ }; do
  on "$n" "TPU_WORKER_HOSTNAMES=$hosts NODE_RANK=$n TORCH_TPU_TOPOLOGY=$topology SEMPPL_RUNS=bucket/runs \
    scale/scripts/tpu_host.sh $* --data \$HOME/imagenet --workers 12 --save-every 100" &
  n=$((n + 1))
done
for job in $(jobs -p); do wait "$job"; done
