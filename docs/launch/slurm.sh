#!/usr/bin/env bash
# Train a recipe on several machines under SLURM:
#
#   sbatch docs/launch/slurm.sh my.yaml
#
# The recipe, its data, the base and adapters/ are in a folder that all machines share, and so is the
# virtual environment that is active when the job is submitted. Ten minutes before the time limit the
# run saves a checkpoint, and the job is queued again; it continues by itself.
#SBATCH --job-name=lora-s2s
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@600
set -euo pipefail

recipe=${1:?usage: sbatch slurm.sh RECIPE [OPTION …]}
shift
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}

# One torchrun on each machine, one process for each of its GPUs. --resume begins where there is
# nothing to continue.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \
    --rdzv-endpoint "$first:$((20000 + SLURM_JOB_ID % 10000))" \
    --shutdown-timeout 540 \
    -m lora_s2s train "$recipe" --resume "$@" &
step=$!

stopped=no
stop() {
    stopped=yes
    kill -TERM "$step"
}
trap stop TERM

code=0
wait "$step" || code=$?
if [ "$stopped" = yes ]; then  # the first wait ended with the signal, not with the run
    code=0
    wait "$step" || code=$?
    [ "$code" = 0 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
