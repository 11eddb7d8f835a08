#!/bin/bash
# One GPU or TPU in at most 8 minutes: training, sampling, likelihood. From the repository root:
#
#     bash benchmarks/accelerator.sh [FILE]
#
# FILE (default accelerator.jsonl) gets a line of JSON for each measurement. PYTHON is the Python to
# use, SECONDS_LEFT the time (default 480). What no longer fits is named and left out. Random images
# stand in for CIFAR-10 where it is not on the machine: nothing is downloaded.
set -u
file="${1:-accelerator.jsonl}"
python="${PYTHON:-python}"
end=$((SECONDS + ${SECONDS_LEFT:-480}))
batch="${BATCH:-128}"

measure() {  # name, fewest seconds that it needs, command
  local name="$1" fewest="$2" left=$((end - SECONDS))
  shift 2
  if ((left < fewest)); then
    echo "== $name: left out, $left s are left of the time"
    return
  fi
  echo "== $name"
  local output
  if output="$(timeout "$left" "$@")"; then
    head -n -1 <<<"$output"
    printf '{"name": "%s", "values": %s}\n' "$name" "$(tail -n 1 <<<"$output")" >>"$file"
  else
    echo "failed with exit code $?, after $((SECONDS - end + left)) s"
  fi
}

step() {  # name, precision of products in float32, arguments
  local name="$1" precision="$2"
  shift 2
  measure "$name" 40 env JAX_DEFAULT_MATMUL_PRECISION="$precision" \
    "$python" benchmarks/train_step.py --batch "$batch" --repeats 10 "$@"
}

ncsnpp=(--config "${NCSNPP:-ve/ncsnpp_cont}")
ddpmpp=(--config "${DDPMPP:-vp/ddpmpp_cont}")
step "NCSN++, bfloat16" default "${ncsnpp[@]}" --config.model.dtype=bfloat16
step "NCSN++, TF32" tensorfloat32 "${ncsnpp[@]}"
step "NCSN++, float32" highest "${ncsnpp[@]}"
step "DDPM++, bfloat16" default "${ddpmpp[@]}" --config.model.dtype=bfloat16
step "DDPM++, TF32" tensorfloat32 "${ddpmpp[@]}"
measure "sampling, DDPM++, TF32" 30 "$python" benchmarks/sample.py "${ddpmpp[@]}" \
  --batch "$batch" --steps 5 --repeats 5
measure "likelihood, digits" 60 "$python" benchmarks/likelihood.py \
  --config vp/ddpmpp_cont:digits --batch 64 --train_steps 200 --repeats 3
echo "== results in $file"
