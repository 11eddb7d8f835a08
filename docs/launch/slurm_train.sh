#!/bin/bash
#SBATCH --job-name=score_sde
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --dependency=singleton
#SBATCH --output=%x-%j.log

# sbatch slurm_train.sh --config RECIPE --workdir DIR [--config.NAME=VALUE ...]
set -eu
srun score-sde --mode train --distributed "$@"
