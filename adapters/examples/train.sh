#!/usr/bin/env bash
# Trains the example adapters again: PREFIXRACK_DATA=<folder with the data sets> adapters/examples/train.sh [NAME …]
# The folder holds <data set>/train.jsonl.gz and dev.jsonl.gz; each card names the public source and the checksums.
set -euo pipefail
: "${PREFIXRACK_DATA:?set PREFIXRACK_DATA to the folder that holds the data sets}"
here="$(cd "$(dirname "$0")" && pwd)"
method="${METHOD:-p-tuning-v2}" # METHOD=fine-tuning measures the baseline instead; it writes no bundle

is_wanted() { [[ ${#wanted[@]} -eq 0 || " ${wanted[*]} " == *" $1 "* ]]; }

joined() { # FILE … → one file with the records of all
    gzip -dc "$@" | gzip -nc >"$scratch/train.jsonl.gz"
    echo "$scratch/train.jsonl.gz"
}

train() { # NAME DATASET TRAIN_FILE [options of `prefixrack train` …]
    local name="$1" dataset="$2" train_file="$3"
    shift 3
    prefixrack train --train "$train_file" --dev "$PREFIXRACK_DATA/$dataset/dev.jsonl.gz" \
        --output "${OUTPUT:-$here}/$name" --dataset "$dataset" "$@" ${METHOD_OPTIONS:-} --method "$method" --overwrite
}

wanted=("$@")
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
data="$PREFIXRACK_DATA"

is_wanted intent && train intent clinc150 "$data/clinc150/train.jsonl.gz" --task text-classification --epochs 10 --max-len 64 \
    --description "What a user wants from an assistant: 150 intents and out of scope." \
    --licence "CC BY 3.0" --source "CLINC150 (Larson et al., EMNLP 2019), github.com/clinc/oos-eval @ 828f8093932c8fe6ca7936c3d2e52903b1c523de, data/data_full.json"
is_wanted emotions && train emotions goemotions "$data/goemotions/train.jsonl.gz" --task text-classification --epochs 8 --max-len 128 \
    --description "Emotions in a short text: 27 and neutral, several at once." \
    --licence "CC BY 4.0" --source "GoEmotions (Demszky et al., ACL 2020), github.com/monologg/GoEmotions-pytorch @ b75f9d3a8b76bc1060687925b04ca98a1b8ea66b, data/original"
is_wanted nli && train nli snli "$data/snli/train.jsonl.gz" --task text-classification --epochs 12 --max-len 128 \
    --description "Whether a hypothesis follows from a premise: entailment, neutral or contradiction." \
    --licence "CC BY-SA 4.0" --source "SNLI (Bowman et al., EMNLP 2015) as in e-SNLI, github.com/OanaMariaCamburu/e-SNLI @ 7b585a3f077fdea899780eb0473940522ae44a2e, dataset/eSNLI"
is_wanted ner && train ner fewnerd_inter "$data/fewnerd_inter/train.jsonl.gz" --task token-classification --epochs 10 --max-len 256 \
    --description "Named entities of the fine types of Few-NERD (inter split)." \
    --licence "CC BY-SA 4.0" --source "Few-NERD (Ding et al., ACL 2021), github.com/antonioloison/structshot @ e5549d081eee8bc7d452074228e038135aa86f5f, data/fewnerd/dev.txt"
is_wanted cause && train cause ecare "$data/ecare/train.jsonl.gz" --task multiple-choice --epochs 12 --max-len 128 \
    --description "Which of two statements is the more likely cause or effect." \
    --licence "MIT" --source "e-CARE (Du et al., ACL 2022), github.com/Waste-Wood/e-CARE @ c3b52648adcc919303a297a377811e24d703e197, dataset/Causal_Reasoning"
is_wanted qa && train qa squad2 "$(joined "$data/squad1/train.jsonl.gz" "$data/squad2/train.jsonl.gz")" \
    --task question-answering --epochs 6 --prefix-len 64 --max-len 384 --stride 128 --batch-size 16 --learning-rate 3e-2 \
    --description "Answers to questions, found in a text, or no answer where the text has none." \
    --licence "CC BY-SA 4.0" --source "Trained on SQuAD 1.1 and 2.0 together (Rajpurkar et al., EMNLP 2016, ACL 2018; articles apart from those of dev), github.com/rajpurkar/SQuAD-explorer @ e0c66cfec263165fb3c15cb76a22175e371b71d7, explore/1.1/dev and explore/v2.0/dev, and 3,547 questions of the 1.1 training set"
true
