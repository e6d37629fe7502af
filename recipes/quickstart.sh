#!/usr/bin/env bash
# The whole of skygen on the miniature, offline, on a laptop: score pairs, fine-tune a captioner and a Stable Diffusion model,
# draw images, score everything, write a page. The same recipes take SkyScript and the real models; see recipes/configs.
set -euo pipefail
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"  # the launcher would use one core
out=runs/quickstart
configs=recipes/configs
launch="accelerate launch --quiet --config_file recipes/launch/cpu.yaml"
launch_two="accelerate launch --quiet --config_file recipes/launch/two_cpus.yaml"  # a picture is drawn by one core alone
prompts=$out/data/benchmark/SkyScript_cls/img_txt_pairs_val.csv

# A small SkyScript of six kinds of object that the base models have never seen.
skygen fabricate $out/data --pairs 1600 --seed 7 --classes novel

# SkyCLIP scores every pair; one caption in thirty belongs to another image, and those go first.
$launch recipes/score_pairs.py $configs/score_pairs/miniature.yaml

# A captioner and a Stable Diffusion model learn them, each through a LoRA of under three megabytes.
$launch recipes/finetune_captioner.py $configs/finetune_captioner/miniature.yaml
$launch recipes/finetune_diffusion.py $configs/finetune_diffusion/miniature.yaml

# The same prompts and seeds, drawn by the base and by the tuned model; then the best of four by SkyCLIP.
$launch_two recipes/generate.py $configs/generate/miniature.yaml --run.name base --prompts.file $prompts
$launch_two recipes/generate.py $configs/generate/miniature.yaml --run.name tuned --prompts.file $prompts \
    --model.adapter $out/diffusion/adapter
$launch_two recipes/generate.py $configs/generate/miniature.yaml --run.name best_of_four --prompts.file $prompts \
    --model.adapter $out/diffusion/adapter --prompts.limit 12 --selection.candidates 4

# Captions for the generated images, and everything scored against real pairs that no training has seen.
$launch recipes/caption.py $configs/caption/miniature.yaml --images $out/best_of_four/samples/images
$launch recipes/evaluate_captions.py $configs/evaluate_captions/miniature.yaml
$launch recipes/evaluate_images.py $configs/evaluate_images/miniature.yaml

skygen report $out/scores $out/captioner $out/diffusion $out/captions $out/images --title "skygen quick start" \
    --output $out/report.html
