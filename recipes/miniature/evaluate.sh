#!/usr/bin/env bash
# What the miniature's cards and docs/results.md say of it, measured on tiles of unseen seeds and EuroSAT's test split.
#
#   recipes/miniature/evaluate.sh EUROSAT
set -euo pipefail
eurosat=$1
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
launch="accelerate launch --quiet --config_file recipes/launch/cpu.yaml"
held_out=runs/miniature-heldout
test_pairs=SkyScript_test_30K_filtered_by_CLIP_openai.csv

$launch recipes/evaluate_scorer.py --run.name miniature-scorer --benchmark.root $held_out/benchmark \
    --benchmark.class_folders "$eurosat" --retrieval.root $held_out --retrieval.csv $test_pairs --retrieval.split test

$launch recipes/evaluate_captions.py --run.name miniature-captioner-scores --pairs.root $held_out-base \
    --pairs.csv $test_pairs --pairs.split test --pairs.limit 600 --baseline.csv SkyScript_train_unfiltered_5M.csv

# One picture a prompt, none selected: ten of each of the base's own classes, twenty of each of EuroSAT's.
template="a satellite image of {}"
base_classes=$held_out-base/benchmark/SkyScript_cls/classnames.txt
$launch recipes/generate.py --run.name miniature-scenes --prompts.file $base_classes --prompts.template "$template" \
    --generation.count 200
$launch recipes/evaluate_images.py --run.name miniature-scenes-scores --judge.name miniature \
    --samples.root runs/miniature-scenes/samples --pairs.root $held_out-base/benchmark \
    --pairs.csv SkyScript_cls/img_txt_pairs_val.csv
$launch recipes/generate.py --run.name miniature-eurosat --prompts.file recipes/configs/generate/eurosat_classes.txt \
    --prompts.template "$template" --generation.count 200
$launch recipes/evaluate_images.py --run.name miniature-eurosat-scores --judge.name miniature \
    --samples.root runs/miniature-eurosat/samples --pairs.root "$eurosat" --pairs.split test
