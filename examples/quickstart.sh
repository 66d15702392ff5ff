#!/usr/bin/env bash
# From raw text to a served model with plain `llm` commands: about 10 MB of Python sources that every
# Python installation carries, a few million parameters, a few minutes on two cores.
#
#   examples/quickstart.sh [OUT]        OUT defaults to demo-out; an old one is replaced
#   STEPS=600 examples/quickstart.sh    train longer
#
# Ends in a table of what each stage made, and exits 1 unless check_quickstart.py finds that the
# model learned, that fine-tuning helped, that Q8_0 costs nothing, and that the server answers
# exactly as `llm generate` does.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-demo-out}
steps=${STEPS:-300}
finetune_steps=${FINETUNE_STEPS:-120}
limit=${LIMIT_TOKENS:-20000}
python=${PYTHON:-python}
started=$SECONDS

stage() { printf '\n[%4ds] %s\n' "$((SECONDS - started))" "$*" >&2; }

rm -rf "$out"
mkdir -p "$out"
cd "$out"

stage "collect: the standard library's sources, cleaned and deduplicated"
stdlib=$($python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
apart=(--exclude '*site-packages*' --exclude '*test/*' --exclude '*tests/*')
# Modules whose names begin with w or z are held out.
llm --json extract "$stdlib" --include '*.py' "${apart[@]}" --exclude '[wz]*.py' \
    -o raw.jsonl > extract.json
llm --json filter raw.jsonl --rejects rejects.jsonl -o clean.jsonl > filter.json
llm --json dedup clean.jsonl -o unique.jsonl > dedup.json
llm extract "$stdlib" --include '[wz]*.py' "${apart[@]}" | llm filter -o val.jsonl

stage "tokenizer: 4,096 byte-level BPE tokens"
llm --json tokenizer train unique.jsonl --vocab-size 4096 -o tokenizer.json > tokenizer-report.json

stage "pack: token frames through a pipe into rows of 256"
llm tokenize unique.jsonl -t tokenizer.json | llm --json pack --seq-len 256 -o train > pack.json
llm pack val.jsonl -t tokenizer.json --seq-len 256 -o val

stage "pretrain: $steps steps"
llm pretrain train --val val --model-config "$here/quickstart-model.json" --tokenizer tokenizer.json \
    --max-steps "$steps" --batch-size 16 --learning-rate 2e-3 --warmup-steps 40 \
    --eval-every 50 --save-every 100 --keep-last 1 --seed 1 -o base
llm inspect base --plot loss.png

stage "finetune: LoRA on $finetune_steps batches of signatures and docstrings"
$python "$here/docstring_pairs.py" "$stdlib" > pairs.jsonl
llm finetune base pairs.jsonl --adapter lora --val-fraction 0.05 --max-steps "$finetune_steps" \
    --batch-size 16 --learning-rate 2e-3 --seed 1 -o tuned

stage "quantize: 8 and 4 bits"
llm --json quantize tuned --method rtn --scheme Q8_0 --documents val.jsonl --limit-tokens "$limit" \
    -o tuned-q8_0.gguf > quantize-q8_0.json
llm --json quantize tuned --method rtn --scheme Q4_0 --documents val.jsonl --limit-tokens "$limit" \
    -o tuned-q4_0.gguf > quantize-q4_0.json

stage "eval: perplexity of held-out documents before and after"
for model in base tuned tuned-q8_0.gguf tuned-q4_0.gguf; do
    llm --json eval "$model" --tasks perplexity --documents val.jsonl --limit-tokens "$limit" \
        -o "eval-$model" > "eval-$model.json"
done

stage "generate, and serve the same question over HTTP"
question=$'What does Path.exists do?\ndef exists(self):'
llm --json generate tuned-q8_0.gguf --chat "$question" \
    --temperature 0.7 --top-p 0.9 --seed 7 --max-tokens 40 > generated.json
llm serve tuned-q8_0.gguf --port 0 2> server.log &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
$python "$here/ask.py" server.log "$question" \
    '{"temperature": 0.7, "top_p": 0.9, "seed": 7, "max_tokens": 40}' > served.json
kill -TERM $server
wait $server || true
trap - EXIT

stage "lineage: from the model that was served back to the sources"
llm inspect tuned-q8_0.gguf --lineage

stage "done in $((SECONDS - started)) s"
$python "$here/check_quickstart.py" .
