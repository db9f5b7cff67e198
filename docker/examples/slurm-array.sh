#!/bin/bash
# Segments a BIDS dataset with one array task per participant, each in its own container, with one output directory:
#
#   sbatch --array=1-$(($(wc -l < BIDS/participants.tsv) - 1)) docker/examples/slurm-array.sh BIDS OUT
#
# Submit it again to process what is missing: finished scans are skipped.
#SBATCH --job-name=slant
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=00:30:00
set -euo pipefail
label=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$1/participants.tsv" | cut -f1)
mkdir -p "$2"
srun apptainer run --containall --cleanenv --bind "$(realpath "$1"):/bids:ro" --bind "$(realpath "$2"):/out" \
    "${SLANT_IMAGE:-slant.sif}" /bids /out participant --participant-label "$label" --n-procs 1 \
    --threads "$SLURM_CPUS_PER_TASK"
