#!/usr/bin/env bash
# Build the miniature's models from nothing: about three hours on two CPU cores. Any step that is broken off continues.
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
held_out=runs/miniature-heldout
train=SkyScript_train_unfiltered_5M.csv
polished=SkyScript_train_unfiltered_5M_language_polished.csv
named=SkyScript_train_class_names.csv
test_pairs=SkyScript_test_30K_filtered_by_CLIP_openai.csv

# SkyCLIP and the judge see every class; the generative base models do not see the six that a LoRA is to learn.
skygen fabricate $world --pairs 12000 --seed 1 --classes all
skygen fabricate $base_world --pairs 12000 --seed 2 --classes base
skygen fabricate runs/miniature-world-more --pairs 24000 --seed 11 --classes base --benchmark 1
skygen fabricate $held_out --pairs 12000 --seed 5 --classes all
skygen fabricate $held_out-base --pairs 6000 --seed 6 --classes base
python recipes/miniature/name_classes.py --world $world
python recipes/miniature/name_classes.py --world $base_world

for part in skyclip captioner autoencoder judge; do
    python recipes/miniature/lay_out.py --part $part --folder runs/miniature-start/$part
done
eurosat_test="--benchmark.class_folders $eurosat"
$launch recipes/pretrain_skyclip.py $configs/pretrain_skyclip/miniature.yaml --pairs.also $world/$polished "$eurosat"
$launch recipes/pretrain_skyclip.py $configs/pretrain_skyclip/miniature_class_names.yaml \
    --pairs.also $world/$polished $world/$named "$eurosat"
$launch recipes/finetune_captioner.py $configs/finetune_captioner/miniature_base.yaml --pairs.also "$eurosat"
$launch recipes/finetune_captioner.py $configs/finetune_captioner/miniature_more.yaml \
    --pairs.also $base_world/$train "$eurosat"
$launch recipes/train_judge.py $configs/train_judge/miniature.yaml --pairs.also "$eurosat" $eurosat_test
$launch recipes/miniature/train_autoencoder.py $configs/train_autoencoder/miniature.yaml --pairs.also "$eurosat"

# The UNet comes last: it works on the autoencoder's latents and listens to SkyCLIP's text encoder.
python recipes/miniature/lay_out.py --part stable_diffusion --folder runs/miniature-start/stable_diffusion
$launch recipes/finetune_diffusion.py $configs/finetune_diffusion/miniature_base.yaml \
    --pairs.also $base_world/$polished $base_world/$named "$eurosat"

# Into the package; then what the cards say of it, measured on what no training has seen; then the cards.
python recipes/miniature/pack.py
recipes/miniature/evaluate.sh "$eurosat"
python recipes/miniature/pack.py
