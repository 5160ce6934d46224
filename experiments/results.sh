#!/usr/bin/env bash
# Makes the tables of RESULTS.md again, with the attackers of today: many hours on two cores.
#
#   experiments/results.sh                   # everything
#   experiments/results.sh selection risk    # these steps
#   experiments/results.sh --list            # what would be run
#
# What a step prints is kept in runs/results/STEP.txt; a step that has one is not run again, and one
# that was stopped goes on where it was. PHOTOGRAPHS is a folder of photographs of your own, two of
# which make an episode; without it, steps that need them are left out. OTHER is a folder of pictures
# of another kind, with a subfolder per class, that attackers have; without it, none does.
set -euo pipefail
cd "$(dirname "$0")/.."
kept=runs/results
wanted=("$@") listing=
[ "${1:-}" != --list ] || listing=yes
# As many pictures as the tables have.
pictures=--max_images=target=4000,validation=500,test=1000
few=--max_images=target=2000,auxiliary=4000,validation=200,test=48
quick=--flagfile=experiments/flags/quickstart.flags

for name in "$@"; do
  [ "$listing" ] || "$0" --list | grep "^$name: " > /dev/null || {
    echo "error: there is no step $name; experiments/results.sh --list names them" >&2
    exit 1
  }
done

# step NAME EXPERIMENT FLAGS...
step() {
  local name=$1 experiment=$2
  shift 2
  if [ "$listing" ]; then
    printf '%s: python -m experiments.%s %s\n' "$name" "$experiment" "$*"
    return
  fi
  [ ${#wanted[@]} = 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  [ ! -e "$kept/$name.txt" ] || return 0
  mkdir -p "$kept"
  printf '\n%s: python -m experiments.%s %s\n' "$name" "$experiment" "$*"
  python -m "experiments.$experiment" "$@" | tee "$kept/$name.part"
  mv "$kept/$name.part" "$kept/$name.txt"
}

step quickstart characterize "$quick" --draws=2
step risk risk --workdir=runs/quickstart

# Estimates, another seed than the one that they were made with.
step dedicated characterize "$quick" --seed=1 --draws=6 --workdir=runs/dedicated
step amortised characterize "$quick" --seed=1 --draws=125 --mode=amortised --cloud_steps=1000 \
  --attacker_steps=1000 --workdir=runs/amortised
step estimates compare_modes --dedicated=runs/dedicated --estimated=runs/amortised
step limits check_limits --steps=100 --seed=1 "$pictures" --out=runs/limits

step selection_cells characterize --flagfile=experiments/flags/selection.flags --depths=16
step selection compare_selection --workdir=runs/selection

# Attackers: on pairs alone, and by what they know.
step attackers compare_attackers --layers=2,4,7,10 --depths=16 --seconds=45 "$pictures" --out=runs/attackers
for layer in 2 4 7 10 13; do
  step "public_$layer" compare_attackers --layers="$layer" --depths=16,32 --draws=3 --seed=29 --steps=600 \
    --attackers=strong,public,"white box from strong" "$few" --out="runs/public_$layer"
done
step attackers_96 compare_attackers --image_size=96 --layers=4,7 --depths=16 --draws=1 --seed=23 --steps=300 \
  --attackers=linear,strong,unet,transformer,public,"white box from strong" \
  --max_images=target=1000,auxiliary=2000,validation=200,test=24 --out=runs/attackers_96
step knowledge compare_knowledge --layers=2,4,7,10 --draws=3 --seed=11 --steps=600 --attacked_images=48 "$few" \
  ${OTHER:+--other_dataset="folder:$OTHER"} --out=runs/knowledge

step inference_cells characterize --layers=2,4,7,10 --depths=16 --draws=1 "$pictures" --workdir=runs/inference
step inference infer --workdir=runs/inference --attributes=class,feature:scale,brightness --candidates=100,1000
seven=(--own_layers=7 --own_depths=16 --mechanism_layers=7 --mechanism_depths=16 --channel_draws=1 --attacked_images=60)
step mechanisms compare_mechanisms "$pictures" "${seven[@]}" --out=runs/mechanisms
step mechanisms_clothes compare_mechanisms "$pictures,auxiliary=4000" "${seven[@]}" \
  --out=runs/mechanisms_clothes --compared_data=fashion_mnist

# Whether plans hold, and what the margin costs.
step planning characterize "$quick" --depths=8,16,32 --workdir=runs/planning
if [ "$listing${PHOTOGRAPHS:-}" ]; then
  step episodes check_planning --workdir=runs/planning --photographs="${PHOTOGRAPHS:-PHOTOGRAPHS}" \
    --rules=measured,expected,marginless --out=runs/episodes
fi

# Twenty contributors; DEVICE is a Python with NumPy, Pillow and onnxruntime alone.
step plan plan --workdir=runs/planning --sample=photo_patches --max_psnr_db=24 --max_local_mmacs=160 --out=runs/plan.json
step rehearsal rehearsal --plan=runs/plan.json --images=photo_patches --contributors=20 --out=runs/rehearsal \
  ${DEVICE:+--python="$DEVICE"} --max_images=target=2000,auxiliary=2000,validation=200,test=500

step benchmark benchmark --repeats=3 --json=runs/benchmark.json
