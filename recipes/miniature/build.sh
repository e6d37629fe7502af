#!/usr/bin/env bash
# Build the miniature's models from nothing: about three hours on two CPU cores. Any step that is broken off continues.
#
#   recipes/miniature/build.sh EUROSAT
#
# EUROSAT is the folder of the public EuroSAT RGB data set (ten class folders of 64-pixel JPEGs).
set -euo pipefail
eurosat=$1
configs=recipes/configs
export HF_HUB_OFFLINE=1

# Two worlds: SkyCLIP sees every class, the generative base models do not see the six that a LoRA is to learn.
skygen fabricate runs/miniature-world --pairs 12000 --seed 1 --classes all
skygen fabricate runs/miniature-world-base --pairs 12000 --seed 2 --classes base

python recipes/miniature/lay_out.py --part skyclip --folder runs/miniature-start/skyclip
accelerate launch recipes/pretrain_skyclip.py $configs/pretrain_skyclip/miniature.yaml --pairs.also \
    runs/miniature-world/SkyScript_train_unfiltered_5M_language_polished.csv "$eurosat"

python recipes/miniature/lay_out.py --part captioner --folder runs/miniature-start/captioner
accelerate launch recipes/finetune_captioner.py $configs/finetune_captioner/miniature_base.yaml

python recipes/miniature/lay_out.py --part stable_diffusion --folder runs/miniature-start/stable_diffusion
accelerate launch recipes/miniature/train_autoencoder.py $configs/train_autoencoder/miniature.yaml
accelerate launch recipes/finetune_diffusion.py $configs/finetune_diffusion/miniature_base.yaml --pairs.also \
    runs/miniature-world-base/SkyScript_train_unfiltered_5M_language_polished.csv

python recipes/miniature/pack.py
