#!/usr/bin/env bash
# A run on a TPU VM slice of one host. Not run by us: there was no TPU here.
# Usage: TPU=NAME ZONE=ZONE BUCKET=gs://... scale/scripts/tpu_vm.sh imagenet_1pct --name semppl --label-list 1percent.txt
set -eu
on() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --command="$1"; }
gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" . "$TPU:semppl-mini"               # this checkout
on "cd semppl-mini && python3 -m venv .venv-xla && .venv-xla/bin/pip install -r scale/requirements-xla.txt 'torch_xla[tpu]==2.9.0' -e ."
on "gsutil -m rsync $BUCKET/imagenet-shards imagenet"                                      # train-*.tar, val-*.tar
on "cd semppl-mini && PJRT_DEVICE=TPU .venv-xla/bin/python scale/train_xla.py $* --data \$HOME/imagenet --workers 48 --save-every 100"
