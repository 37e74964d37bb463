#!/usr/bin/env bash
# Trains the example adapters again: PREFIXRACK_DATA=<folder with the data sets> adapters/examples/train.sh [NAME …]
# The folder holds <data set>/train.jsonl.gz and dev.jsonl.gz; each card names the public source and the checksums.
set -euo pipefail
: "${PREFIXRACK_DATA:?set PREFIXRACK_DATA to the folder that holds the data sets}"
here="$(cd "$(dirname "$0")" && pwd)"
method="${METHOD:-p-tuning-v2}" # METHOD=fine-tuning measures the baseline instead; it writes no bundle

train() { # NAME DATASET [options of `prefixrack train` …]
    local name="$1" dataset="$2"
    shift 2
    [[ ${#wanted[@]} -gt 0 && " ${wanted[*]} " != *" $name "* ]] && return
    prefixrack train --train "$PREFIXRACK_DATA/$dataset/train.jsonl.gz" --dev "$PREFIXRACK_DATA/$dataset/dev.jsonl.gz" \
        --output "${OUTPUT:-$here}/$name" --dataset "$dataset" "$@" ${METHOD_OPTIONS:-} --method "$method"
}

wanted=("$@")

train intent clinc150 --task text-classification --epochs 10 --max-len 64 \
    --description "What a user wants from an assistant: 150 intents and out of scope." \
    --licence "CC BY 3.0" --source "CLINC150 (Larson et al., EMNLP 2019), github.com/clinc/oos-eval @ 828f8093932c8fe6ca7936c3d2e52903b1c523de, data/data_full.json"
train emotions goemotions --task text-classification --epochs 8 --max-len 128 \
    --description "Emotions in a short text: 27 and neutral, several at once." \
    --licence "CC BY 4.0" --source "GoEmotions (Demszky et al., ACL 2020), github.com/monologg/GoEmotions-pytorch @ b75f9d3a8b76bc1060687925b04ca98a1b8ea66b, data/original"
train nli snli --task text-classification --epochs 12 --max-len 128 \
    --description "Whether a hypothesis follows from a premise: entailment, neutral or contradiction." \
    --licence "CC BY-SA 4.0" --source "SNLI (Bowman et al., EMNLP 2015) as in e-SNLI, github.com/OanaMariaCamburu/e-SNLI @ 7b585a3f077fdea899780eb0473940522ae44a2e, dataset/eSNLI"
train ner fewnerd_inter --task token-classification --epochs 10 --max-len 256 \
    --description "Named entities of the fine types of Few-NERD (inter split)." \
    --licence "CC BY-SA 4.0" --source "Few-NERD (Ding et al., ACL 2021), github.com/antonioloison/structshot @ e5549d081eee8bc7d452074228e038135aa86f5f, data/fewnerd/dev.txt"
train cause ecare --task multiple-choice --epochs 12 --max-len 128 \
    --description "Which of two statements is the more likely cause or effect." \
    --licence "MIT" --source "e-CARE (Du et al., ACL 2022), github.com/Waste-Wood/e-CARE @ c3b52648adcc919303a297a377811e24d703e197, dataset/Causal_Reasoning"
train qa squad2 --task question-answering --epochs 6 --max-len 384 --stride 128 --batch-size 16 \
    --description "Answers to questions, found in a text, or no answer where the text has none." \
    --licence "CC BY-SA 4.0" --source "SQuAD 2.0 (Rajpurkar et al., ACL 2018), dev set, github.com/rajpurkar/SQuAD-explorer @ e0c66cfec263165fb3c15cb76a22175e371b71d7, explore/v2.0/dev"
