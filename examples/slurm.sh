#!/bin/bash
# Calibration in eight shards, then one merge and one build of the plan:
#   MODEL=model.onnx SET=set.yaml sh slurm.sh
set -eu
: "${MODEL:?a model}" "${SET:?a data set}"
SHARDS=${SHARDS:-8}
mkdir -p shards
array=$(sbatch --parsable --array=1-"$SHARDS" --cpus-per-task=4 --mem=8G --requeue \
  --wrap "qc calibrate '$MODEL' --data '$SET' --shard \$SLURM_ARRAY_TASK_ID/$SHARDS --threads 4 --resume -o shards/\$SLURM_ARRAY_TASK_ID.stats")
# A shard that was requeued goes on where it was: --resume.
sbatch --dependency=afterok:"$array" --cpus-per-task=4 --mem=8G \
  --wrap "qc stats merge shards/*.stats -o model.stats && qc quantize '$MODEL' --data '$SET' --stats model.stats -o model.int8.onnx"
