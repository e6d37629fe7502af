#!/usr/bin/env bash
# Build the miniature's models from nothing: about two hours on two CPU cores. Any step that is broken off continues.
#
#   recipes/miniature/build.sh EUROSAT
#
# EUROSAT is the folder of the public EuroSAT RGB data set (ten class folders of 64-pixel JPEGs).
set -euo pipefail
eurosat=$1
configs=recipes/configs
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"  # the launcher would use one core
launch="accelerate launch --quiet --config_file recipes/launch/cpu.yaml"
world=runs/miniature-world
base_world=runs/miniature-world-base
polished=SkyScript_train_unfiltered_5M_language_polished.csv
test_pairs=SkyScript_test_30K_filtered_by_CLIP_openai.csv

# Two worlds: SkyCLIP sees every class, the generative base models do not see the six that a LoRA is to learn.
skygen fabricate $world --pairs 12000 --seed 1 --classes all
skygen fabricate $base_world --pairs 12000 --seed 2 --classes base

python recipes/miniature/lay_out.py --part skyclip --folder runs/miniature-start/skyclip
$launch recipes/pretrain_skyclip.py $configs/pretrain_skyclip/miniature.yaml --pairs.also $world/$polished "$eurosat"

python recipes/miniature/lay_out.py --part captioner --folder runs/miniature-start/captioner
$launch recipes/finetune_captioner.py $configs/finetune_captioner/miniature_base.yaml

python recipes/miniature/lay_out.py --part stable_diffusion --folder runs/miniature-start/stable_diffusion
$launch recipes/miniature/train_autoencoder.py $configs/train_autoencoder/miniature.yaml
$launch recipes/finetune_diffusion.py $configs/finetune_diffusion/miniature_base.yaml --pairs.also $base_world/$polished

# What the cards say of them, measured on pairs that no training has seen.
scorer="--scorer.name runs/miniature-skyclip/model"
$launch recipes/score_pairs.py --run.name miniature-skyclip-scores $scorer --pairs.root $world --pairs.csv $test_pairs
$launch recipes/score_pairs.py --run.name miniature-skyclip-eurosat $scorer --pairs.root "$eurosat" --pairs.split test
$launch recipes/evaluate_captions.py --run.name miniature-captioner-scores $scorer --model.name runs/miniature-captioner/model \
    --pairs.root $base_world --pairs.csv $test_pairs --pairs.split test --pairs.limit 300 \
    --baseline.csv SkyScript_train_unfiltered_5M.csv
$launch recipes/generate.py --run.name miniature-diffusion-samples $scorer --model.name runs/miniature-diffusion/model \
    --prompts.file $base_world/$test_pairs --prompts.limit 200
$launch recipes/evaluate_images.py --run.name miniature-diffusion-scores $scorer \
    --samples.root runs/miniature-diffusion-samples/samples --pairs.root $base_world --pairs.csv $test_pairs --pairs.split test

python recipes/miniature/pack.py
