#!/usr/bin/env bash
# One worker on each node of a Slurm job. Needs a shared folder, and mpls on the PATH of every node.
#   sbatch --nodes=3 deploy/slurm.sh                 a cluster made of the job's nodes
#   sbatch --nodes=3 deploy/slurm.sh cluster.toml    yours: worker i runs on the i-th node
#SBATCH --job-name=mpls
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
# Workers drain and save themselves two minutes before the time is up. A job that is queued again
# keeps its number, and so goes on from its checkpoints.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

runs="${SLURM_SUBMIT_DIR:-$PWD}/runs/slurm-$SLURM_JOB_ID"
cluster=${1:-$runs/cluster.toml}
mkdir -p "$runs"
if [ $# -eq 0 ] && [ ! -e "$cluster" ]; then
    addresses=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/:${MPLS_PORT:-50051}/" | paste -sd ,)
    mpls generate --name slurm --addresses "$addresses" -o "$cluster"
fi
# Your own file off loopback has its keys beside it already; `mpls keys` never overwrites any.
[ $# -gt 0 ] || mpls keys "$cluster"

# A worker that fails leaves the others training, and the job fails at the end.
# shellcheck disable=SC2016  # each task reads its own SLURM_PROCID
srun --kill-on-bad-exit=0 --label \
    sh -c 'exec mpls worker "$0" --id "$SLURM_PROCID" --out "$1"' "$cluster" "$runs"
