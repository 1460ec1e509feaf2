#!/bin/bash
# sbatch configs/slurm.sh --epochs 2      from the project's folder, which all hosts see; arguments go to the script
#SBATCH --job-name=course
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
# Each task is one accelerate launch. TERM, two minutes before the end of the time, saves; a requeued job goes on from there.
export GPUS_PER_NODE=${GPUS_PER_NODE:-8} SCRIPT=${SCRIPT:-scripts/sft_chat.py} CONFIG=${CONFIG:-configs/two_nodes.yaml}
read -r MAIN_IP < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MAIN_IP
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$CONFIG" \
  --num_machines "$SLURM_NTASKS" --num_processes $((SLURM_NTASKS * GPUS_PER_NODE)) --machine_rank "$SLURM_PROCID" \
  --main_process_ip "$MAIN_IP" "$SCRIPT" "$@"' bash "$@"
