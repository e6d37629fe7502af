#!/usr/bin/env bash
# The closed loop on the miniature, offline: a Stable Diffusion learns real pairs and draws, its pictures are captioned and
# screened, and the next round learns from the same real pairs and from what was kept of all rounds before it.
#
#   recipes/closed_loop.sh [ROUNDS]      rounds after the first, which has real pairs alone; 2 when left out
#
# The same command goes on where it stopped, and with more ROUNDS adds some; what has finished is left as it is. At most SHARE
# of a training's pairs are synthetic: on its own pictures alone a model loses variety round by round.
set -euo pipefail
rounds=${1:-2}
out=${OUT:-runs/closed_loop}
pairs=${PAIRS:-500} benchmark=${BENCHMARK:-120} # real tiles; and held-out ones to measure by
classes=${CLASSES:-novel} # what the tiles show: what the base model has never seen, or base for what it knows
steps=${STEPS:-160} captioner_steps=${CAPTIONER_STEPS:-250} # updates of either training
pictures=${PICTURES:-72} test_pictures=${TEST_PICTURES:-60} # of a round: to learn from, and to measure by
denoising=${DENOISING:-20} # steps a picture
share=${SHARE:-0.3}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}" # the launcher would use one core

# Rounds of other settings could not be compared.
settings="pairs=$pairs classes=$classes benchmark=$benchmark steps=$steps captioner_steps=$captioner_steps"
settings+=" pictures=$pictures test_pictures=$test_pictures denoising=$denoising share=$share"
mkdir -p "$out"
if [[ -e $out/settings && $(<"$out/settings") != "$settings" ]]; then
    echo "closed_loop: $out was begun with $(<"$out/settings"), now it is $settings;" \
        "go on with the first, or take another OUT." >&2
    exit 2
fi
echo "$settings" >"$out/settings"

# step LAUNCH RECIPE CONFIG FOLDER WORDS...: a run that has finished is not begun again; one that was broken off goes on.
step() {
    local launch=recipes/launch/$1.yaml recipe=$2 config=recipes/configs/$2/$3.yaml folder=$4
    shift 4
    if grep -qs '"state": "finished"' "$folder/run_status.json"; then return; fi
    echo "== $folder: $recipe" >&2
    accelerate launch --quiet --config_file "$launch" "recipes/$recipe.py" "$config" \
        --run.root "$(dirname "$folder")" --run.name "$(basename "$folder")" "$@"
}

# Real pairs: tiles of kinds of object that the base model has never seen. Those to measure by are in no training.
train_list=SkyScript_train_unfiltered_5M.csv # is written last
[[ -e $out/data/$train_list ]] ||
    skygen fabricate "$out/data" --pairs "$pairs" --seed 7 --classes "$classes" --benchmark "$benchmark"
real=(--pairs.root "$out/data" --pairs.csv "$out/pairs/kept.csv")
step cpu score_pairs closed_loop "$out/pairs" --pairs.root "$out/data"
step cpu finetune_captioner closed_loop "$out/captioner" "${real[@]}" --train.max_train_steps "$captioner_steps"
captioner=(--model.adapter "$out/captioner/adapter")
step cpu caption closed_loop_control "$out/control_captions" --pairs.root "$out/data" "${captioner[@]}"

folders=()
for ((number = 0; number <= rounds; number++)); do
    round=$out/round-$number
    also=()
    if ((number > 0)); then
        list=$out/synthetic-$number.csv
        [[ -e $list ]] || skygen gather "${folders[@]}" --root "$out/data" --csv "$out/pairs/kept.csv" --share "$share" \
            --output "$list"
        also=(--pairs.also "$list")
    fi
    step cpu finetune_diffusion closed_loop "$round/training" "${real[@]}" "${also[@]}" --train.max_train_steps "$steps"
    drawn=(--model.adapter "$round/training/adapter" --generation.num_inference_steps "$denoising")

    # What the round is measured by: held-out prompts, the same prompts and seeds every time, judged by whom no choice asks.
    step two_cpus generate closed_loop_test "$round/test" "${drawn[@]}" --prompts.limit "$test_pictures" \
        --prompts.file "$out/data/benchmark/SkyScript_cls/img_txt_pairs_val.csv"
    step cpu evaluate_images closed_loop "$round/scores" --samples.root "$round/test/samples" --pairs.root "$out/data/benchmark"

    # What later rounds may learn from: prompts of training pairs, other seeds every round; captioned, then screened.
    step two_cpus generate closed_loop "$round/set" "${drawn[@]}" "${real[@]}" --generation.count "$pictures" \
        --run.seed "$number"
    step cpu caption closed_loop "$round/captions" --images "$round/set/samples/images" "${captioner[@]}"
    step cpu screen_images closed_loop "$round/screen" "${real[@]}" --samples.root "$round/set/samples" \
        --captions.file "$round/captions/captions.jsonl" --captions.control "$out/control_captions/captions.jsonl"
    folders+=("$round")
done

skygen rounds "${folders[@]}" --output "$out/rounds.html" --title "Closed loop"
