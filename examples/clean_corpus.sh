#!/usr/bin/env bash
# A tree of text files, or documents as JSON lines, to clean documents without near duplicates: one
# `llm run` on one machine, on a Slurm cluster or on a Ray cluster, with the same bytes as result.
#
#   examples/clean_corpus.sh INPUT OUT [local|slurm|ray]
#
#   examples/clean_corpus.sh site/ clean                                   this machine
#   sbatch --array=0-7 -c 16 examples/clean_corpus.sh crawl.jsonl.zst /shared/clean slurm
#   RAY_ADDRESS=head:6379 examples/clean_corpus.sh /shared/crawl/ /shared/clean ray
#
# OUT gets clean.jsonl.zst, what was dropped and why (dropped-filter.jsonl, dropped-dedup.jsonl), and
# work/, which remembers what is done: stopped or killed, the same line goes on. Several machines need
# INPUT and OUT on a file system that all of them see. WORKERS, SHARD_BYTES and FILTER (flags of
# `llm filter`) change what they name.
set -euo pipefail
input=${1:?usage: clean_corpus.sh INPUT OUT [local|slurm|ray]}
out=${2:?usage: clean_corpus.sh INPUT OUT [local|slurm|ray]}
executor=${3:-local}

first="filter $input"
if [ -d "$input" ] && [ -z "$(find "$input" -name '*.jsonl*' -print -quit)" ]; then
    first="extract $input | filter"
fi
mkdir -p "$out"
llm run --work-dir "$out/work" --executor "$executor" ${WORKERS:+--workers "$WORKERS"} \
    ${SHARD_BYTES:+--shard-bytes "$SHARD_BYTES"} \
    "$first ${FILTER:-} --rejects $out/dropped-filter.jsonl
     | dedup --rejects $out/dropped-dedup.jsonl -o $out/clean.jsonl.zst"
