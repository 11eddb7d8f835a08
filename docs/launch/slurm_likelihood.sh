#!/bin/bash
#SBATCH --job-name=score_sde_likelihood
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=%x-%A-%a.log

# sbatch slurm_likelihood.sh --workdir DIR [--workdir DIR ...]
set -eu
shares=8  # as many as --array says
score-sde --mode likelihood --shard="$SLURM_ARRAY_TASK_ID/$shares" "$@"
