"""One case for every flag of every command: two command lines that differ in it alone.

A new flag gets a line here: COMMAND: {"--flag": Case(what to add to the command's BASE line)}.
Command lines are words of a shell; names of files are those that test_flags.py makes; `out` is the
output. `test_flags.py` fails where a flag has no case, or changing it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Case:
    """added: words that change the flag. base: what they are added to, the command's by default.

    instead: the whole changed line, where adding words does not do. refused: exit code and part of
    the message, where the change is refused. existing: `out` is there already, as a file or as a
    directory. after: a line that has run before both. watch: 'result' (exit code, stdout, files),
    'stderr', or 'threads'.
    """

    added: str = ""
    base: str = ""
    instead: str = ""
    refused: tuple[int, str] | None = None
    existing: Literal["", "file", "directory"] = ""
    after: str = ""
    watch: str = "result"


BASE = {
    "extract": "extract tree -o out",
    "filter": "filter varied.jsonl --rejects rejects --min-doc-words 5 -o out",
    "dedup": "dedup near.jsonl -o out",
    "scorer train": "scorer train docs.jsonl --order 2 -o out.safetensors",
    "score": "score docs.jsonl --with lm.safetensors -o out",
    "tokenizer train": "tokenizer train docs.jsonl --vocab-size 300 -o out",
    "tokenizer extend": "tokenizer extend base docs.jsonl --add 20 -o out",
    "tokenizer compare": "tokenizer compare tok.json other.json docs.jsonl",
    "tokenize": "tokenize docs.jsonl -t tok.json -o out.safetensors",
    "detokenize": "detokenize t.safetensors -t tok.json -o out",
    "pack": "pack docs.jsonl -t tok.json --seq-len 16 -o out",
    "pretrain": "pretrain rows --model-config config.json --max-steps 3 --warmup-steps 1"
    " --batch-size 2 --dtype fp32 -o out",
    "finetune": "finetune base chat.jsonl --max-steps 3 --warmup-steps 1 --batch-size 2"
    " --learning-rate 1e-3 --dtype fp32 -o out",
    "quantize": "quantize base -o out.gguf",
    "eval": "eval base --tasks perplexity --documents docs.jsonl -o out --json",
    "generate": "generate base 'The capital' --max-tokens 8 --temperature 2 --seed 1",
    "serve": "serve base --port 0",
}
BY_MODEL = "score docs.jsonl --with chatty -o out"
LIMIT = "--max-perplexity 1e6"
JUDGED = BASE["filter"] + f" --annotate --perplexity lm.safetensors {LIMIT}"
THIRDS = JUDGED.replace(f"lm.safetensors {LIMIT}", "other-lm.safetensors --perplexity-bucket head")
CHATTY = BASE["generate"].replace("base", "chatty")
LANGUAGE = (
    "filter varied.jsonl --rules language --lid-model lid.bin --language-threshold 0.25"
    " --rejects rejects -o out"
)
LABEL = "filter varied.jsonl --rules classifier --keep-label en:0.17 --rejects rejects -o out"
CLASSES = "scorer train rated.jsonl --kind classifier -o out.bin"
RATING = "scorer train rated.jsonl --kind regression -o out.safetensors"
QUESTIONS = "eval base --tasks hellaswag --data evals/hellaswag_val.jsonl -o out --json"
UNFINISHED = QUESTIONS.replace("-o out", "-o half")
LORA = BASE["finetune"] + " --adapter lora --lora-dropout 0"
SAVES = BASE["pretrain"] + " --save-every 1"
FIM = " --fim-rate 1 --fim-tokens '<|endoftext|>,<|im_start|>,<|im_end|>'"
BEST_FIT = BASE["pack"] + " --strategy best-fit"
BAD = {
    "filter": "filter bad.jsonl --rules length --min-doc-words 1 -o out",
    "dedup": "dedup bad.jsonl -o out",
    "scorer train": "scorer train bad.jsonl --order 2 -o out.safetensors",
    "score": "score bad.jsonl --with lm.safetensors -o out",
    "tokenizer train": "tokenizer train bad.jsonl --vocab-size 300 -o out",
    "tokenizer extend": "tokenizer extend tok.json bad.jsonl --add 2 -o out",
    "tokenize": "tokenize bad.jsonl -t tok.json -o out.safetensors",
    "pack": "pack bad.jsonl -t tok.json --seq-len 16 -o out",
}
# filter's rules beside the default ones, on texts with something for each of their thresholds.
QUALITY = "filter varied.jsonl --rules gopher-quality --min-doc-words 5 --rejects rejects -o out"
SHAPES = "filter shapes.jsonl --rules gopher-quality --min-doc-words 5 --min-stop-words 0 -o out"
LINES = "filter shapes.jsonl --rules c4 --min-num-sentences 1 --rejects rejects -o out"
PARAGRAPHS = "filter shapes.jsonl --rules c4-paragraphs --min-paragraphs 2"
PARAGRAPHS += " --min-paragraph-length 30 --rejects rejects -o out"
FINEWEB = "filter shapes.jsonl --rules fineweb --annotate -o out"
REFINED = "filter shapes.jsonl --rules refinedweb --max-removed-words-ratio 0.9"
REFINED += " --rejects rejects -o out"
BLOCK = "filter pages.jsonl --rules url --rejects rejects -o out"
BADWORDS = "filter pages.jsonl --rules badwords --rejects rejects -o out"
ADDRESSES = "filter pages.jsonl --text-key url --rules addresses --rejects rejects -o out"
COPIES = "dedup cut.jsonl -o out"
CUT_SENTENCES = COPIES + " --method sentence --min-doc-words 0 --min-doc-sentences 0"
MEANINGS = "dedup near.jsonl -o out --method semantic --vectors vectors.npy"
NO_DEVICE = (4, "cuda:77")
EXISTS = Case("-f", existing="file")
DIRECTORY_EXISTS = Case("-f", existing="directory")
THREADS = Case("--threads 3", watch="threads")
DEVICE = Case("--device cuda:77", refused=NO_DEVICE)
PLAN = Case("--dry-run")


def _skips(command: str) -> dict[str, Case]:
    return {
        "--on-error": Case("--on-error skip", base=BAD[command]),
        "--rejects": Case("--rejects kept", base=BAD[command] + " --on-error skip"),
    }


def _output(command: str, other: str = "other") -> Case:
    line = BASE[command]
    return Case(instead=" ".join([*line.split(" -o ")[:1], "-o", other]))


CASES: dict[str, dict[str, Case]] = {
    "extract": {
        "--output": _output("extract"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--include": Case("--include '*.py'"),
        "--exclude": Case("--exclude '*.py'"),
        "--files-from": Case("--files-from list.txt"),
        "--max-bytes": Case("--max-bytes 3"),
        "--rejects": Case("--rejects kept"),
        "--on-error": Case("--on-error fail", refused=(3, "not UTF-8")),
    },
    "filter": {
        "--output": _output("filter"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--rules": Case("--rules length"),
        "--annotate": Case("--annotate"),
        "--perplexity": Case(f"--perplexity other-lm.safetensors {LIMIT}", base=JUDGED),
        "--max-perplexity": Case("--max-perplexity 3", base=JUDGED),
        "--perplexity-bucket": Case("--perplexity-bucket middle", base=JUDGED),
        "--percentile-head": Case("--percentile-head 0", base=THIRDS),
        "--percentile-tail": Case("--percentile-tail 100", base=THIRDS),
        "--where": Case("--where 'len(text) > 90'"),
        "--stats": Case("--stats stats.json"),
        "--min-doc-words": Case("--min-doc-words 20"),
        "--max-doc-words": Case("--max-doc-words 35"),
        "--dup-para-frac": Case("--dup-para-frac 0"),
        "--dup-para-char-frac": Case("--dup-para-char-frac 0"),
        "--dup-line-frac": Case("--dup-line-frac 0"),
        "--dup-line-char-frac": Case("--dup-line-char-frac 0"),
        "--top-n-grams": Case("--top-n-grams 2:0.06"),
        "--dup-n-grams": Case("--dup-n-grams 5:0.0001"),
        "--max-symbol-word-ratio": Case("--max-symbol-word-ratio 0"),
        "--languages": Case("--languages en,ru", LANGUAGE),
        "--language-threshold": Case("--language-threshold 0.3", LANGUAGE),
        "--lid-model": Case("--lid-model other.bin", LANGUAGE),
        "--lid-chars": Case("--lid-chars 5", LANGUAGE + " --languages en"),
        "--classifier": Case("--classifier other.bin", LABEL + " --classifier lid.bin"),
        "--keep-label": Case("--keep-label en:0.24", LABEL + " --classifier lid.bin"),
        "--min-avg-word-length": Case("--min-avg-word-length 4.1", base=SHAPES),
        "--max-avg-word-length": Case("--max-avg-word-length 4.2", base=SHAPES),
        "--max-bullet-lines-ratio": Case("--max-bullet-lines-ratio 0", base=SHAPES),
        "--max-ellipsis-lines-ratio": Case("--max-ellipsis-lines-ratio 0.5", base=SHAPES),
        "--min-alpha-words-ratio": Case("--min-alpha-words-ratio 0.99", base=SHAPES),
        "--min-stop-words": Case("--min-stop-words 0", base=QUALITY + " --annotate"),
        "--min-num-sentences": Case("--min-num-sentences 2", base=LINES),
        "--min-words-per-line": Case("--min-words-per-line 7", base=LINES),
        "--max-word-length": Case("--max-word-length 6", base=LINES),
        "--remove-citations": Case("--no-remove-citations", base=LINES),
        "--terminal-punct": Case("--no-terminal-punct", base=LINES),
        "--lorem-ipsum": Case("--no-lorem-ipsum", base=LINES),
        "--javascript": Case("--no-javascript", base=LINES),
        "--curly-bracket": Case("--no-curly-bracket", base=LINES),
        "--policy": Case("--no-policy", base=LINES),
        "--min-paragraphs": Case("--min-paragraphs 1", base=PARAGRAPHS),
        "--min-paragraph-length": Case("--min-paragraph-length 20", base=PARAGRAPHS),
        "--line-punct-thr": Case("--line-punct-thr 0", base=FINEWEB),
        "--line-punct-exclude-zero": Case("--line-punct-exclude-zero", base=FINEWEB),
        "--short-line-thr": Case("--short-line-thr 0", base=FINEWEB),
        "--short-line-length": Case("--short-line-length 300", base=FINEWEB),
        "--char-duplicates-ratio": Case("--char-duplicates-ratio 0.5", base=FINEWEB),
        "--new-line-ratio": Case("--new-line-ratio 0", base=FINEWEB),
        "--recipe": Case("--recipe gopher --min-stop-words 0"),
        "--show-recipe": Case("--show-recipe"),
        "--dialect": Case("--dialect dolma", base=LINES),
        "--words": Case("--words unicode", base=SHAPES + " --annotate"),
        "--max-uppercase-ratio": Case("--max-uppercase-ratio 0.01", base=REFINED),
        "--max-numeric-ratio": Case("--max-numeric-ratio 0.1", base=REFINED),
        "--min-line-words": Case("--min-line-words 5", base=REFINED),
        "--max-removed-words-ratio": Case("--max-removed-words-ratio 0", base=REFINED),
        "--url-key": Case("--url-key id", base=BLOCK + " --url-domains blocked.txt"),
        "--url-domains": Case("--url-domains blocked.txt", base=BLOCK + " --url-domains list.txt"),
        "--url-list": Case("--url-list urls.txt", base=BLOCK + " --url-domains list.txt"),
        "--url-words": Case("--url-words words.txt", base=BLOCK + " --url-domains list.txt"),
        "--url-soft-words": Case("--url-soft-words words.txt", base=BLOCK + " --url-list list.txt"),
        "--soft-word-threshold": Case(
            "--soft-word-threshold 3", base=BLOCK + " --url-soft-words words.txt"
        ),
        "--url-subwords": Case("--url-subwords words.txt", base=BLOCK + " --url-domains list.txt"),
        "--tlds": Case("--tlds tlds.txt", base=ADDRESSES + " --tlds list.txt"),
        "--max-newlines": Case(
            "--max-newlines 0", base="filter shapes.jsonl --rules newlines -o out"
        ),
        "--badwords": Case("--badwords words.txt", base=BADWORDS + " --badwords urls.txt"),
        "--badwords-inside": Case("--badwords-inside", base=BADWORDS + " --badwords words.txt"),
        "--text-key": Case("--text-key body"),
        "--id-key": Case("--id-key other"),
        **_skips("filter"),
    },
    "dedup": {
        "--output": _output("dedup"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--method": Case("--method line"),
        "--max-distance": Case("--max-distance 16", base=COPIES + " --method simhash"),
        "--vectors": Case("--vectors v0.npy", base=MEANINGS, refused=(3, "vectors for 80")),
        "--similarity": Case("--similarity 0.999", base=MEANINGS),
        "--num-clusters": Case("--num-clusters 1", base=MEANINGS),
        "--min-bytes": Case("--min-bytes 20", base=COPIES + " --method substring"),
        "--normalize": Case("--normalize none", base=COPIES + " --method line"),
        "--num-sentences": Case("--num-sentences 1", base=CUT_SENTENCES),
        "--min-chars": Case("--min-chars 100000", base=CUT_SENTENCES + " --num-sentences 1"),
        "--min-doc-words": Case("--min-doc-words 9999", base=CUT_SENTENCES + " --num-sentences 1"),
        "--min-doc-sentences": Case(
            "--min-doc-sentences 9999", base=CUT_SENTENCES + " --num-sentences 1"
        ),
        "--annotate": Case("--annotate", base=COPIES + " --method line"),
        "--zstd-level": Case("--zstd-level 19", base="dedup near.jsonl --method exact -o out.zst"),
        "--keep": Case("--keep newest", refused=(3, "no document has metadata.date")),
        "--verify-jaccard": Case("--verify-jaccard 0.9"),
        "--cluster-ids": Case("--cluster-ids"),
        "--index": Case(
            "--index old",
            after="dedup near.jsonl -o x --create-index old",
            refused=(3, "have copies in old"),
        ),
        "--create-index": Case("--create-index new"),
        "--explain": Case(instead="dedup near.jsonl --explain n1-1"),
        "--phase": Case(instead="dedup near.jsonl --phase sign --work-dir work"),
        "--preset": Case("--preset olmo3"),
        "--dialect": Case("--dialect datatrove"),
        "--n-grams": Case("--n-grams 1"),
        "--char-n-grams": Case("--char-n-grams 9"),
        "--memory": Case("--memory 1M", refused=(2, "too little")),
        "--num-buckets": Case("--num-buckets 1"),
        "--hashes-per-bucket": Case("--hashes-per-bucket 1"),
        "--seed": Case("--seed 2"),
        "--text-key": Case("--text-key body"),
        "--id-key": Case("--id-key other", base=BASE["dedup"] + " --cluster-ids"),
        **_skips("dedup"),
    },
    "scorer train": {
        "--output": Case(instead="scorer train docs.jsonl --order 2 -o other.arpa"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--kind": Case("--kind trigram", refused=(2, "trigram")),
        "--order": Case("--order 3"),
        "--normalize": Case("--normalize none"),
        "--prune": Case("--prune 0,8"),
        "--held-out": Case("--held-out varied.jsonl"),
        "--label-key": Case("--label-key other", CLASSES),
        "--val-fraction": Case("--val-fraction 0.5", CLASSES),
        "--dim": Case("--dim 8", CLASSES),
        "--word-ngrams": Case("--word-ngrams 1", CLASSES),
        "--min-chars": Case("--min-chars 2", CLASSES + " --max-chars 3"),
        "--max-chars": Case("--max-chars 3", CLASSES),
        "--num-buckets": Case("--num-buckets 9", CLASSES),
        "--max-words": Case("--max-words 3", CLASSES),
        "--min-count": Case("--min-count 3", CLASSES),
        "--epochs": Case("--epochs 1", CLASSES),
        "--learning-rate": Case("--learning-rate 0.1", CLASSES),
        "--seed": Case("--seed 2", CLASSES),
        "--vectors": Case("--vectors v1.npy", RATING + " --vectors v0.npy"),
        "--encoder": Case("--encoder chatty", RATING + " --encoder base"),
        "--link": Case("--link logistic", RATING + " --vectors v0.npy"),
        "--l2": Case("--l2 1", RATING + " --vectors v0.npy"),
        "--text-key": Case("--text-key body"),
        **_skips("scorer train"),
    },
    "score": {
        "--with": Case(instead="score docs.jsonl --with other-lm.safetensors -o out"),
        "--name": Case("--name simple"),
        "--encoder": Case("--encoder chatty", "score docs.jsonl --with rating.safetensors -o out"),
        "--normalize": Case("--normalize none", base="score docs.jsonl --with lm.arpa -o out"),
        "--context": Case("--context 4", base=BY_MODEL),
        "--device": Case("--device cuda:77", base=BY_MODEL, refused=NO_DEVICE),
        "--output": _output("score"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--text-key": Case("--text-key body"),
        **_skips("score"),
    },
    "tokenizer train": {
        "--output": _output("tokenizer train"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--vocab-size": Case("--vocab-size 280"),
        "--model": Case("--model word"),
        "--pattern": Case("--pattern gpt4"),
        "--special-tokens": Case("--special-tokens '<|endoftext|>'"),
        "--min-frequency": Case("--min-frequency 50"),
        "--export": Case("--export tiktoken"),
        "--report": Case("--report out.report"),
        "--memory": Case("--memory 1M", refused=(2, "too little")),
        "--text-key": Case("--text-key body"),
        **_skips("tokenizer train"),
    },
    "tokenizer extend": {
        "--add": Case("--add 10"),
        "--output": _output("tokenizer extend"),
        "--force": DIRECTORY_EXISTS,
        "--dry-run": PLAN,
        "--embeddings": Case("--embeddings focus"),
        "--min-frequency": Case("--min-frequency 5000", refused=(3, "no pair of tokens")),
        "--memory": Case("--memory 1M", refused=(2, "too little")),
        "--text-key": Case("--text-key body"),
        **_skips("tokenizer extend"),
    },
    "tokenizer compare": {
        "--dry-run": PLAN,
        "--sample-bytes": Case("--sample-bytes 1", base="tokenizer compare tok.json varied.jsonl"),
        "--on-error": Case(
            "--on-error skip",
            base="tokenizer compare tok.json bad.jsonl",
        ),
        "--text-key": Case("--text-key body"),
    },
    "tokenize": {
        "--tokenizer": Case("-t other.json"),
        "--output": _output("tokenize"),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--no-eos": Case("--no-eos"),
        "--bos": Case("--bos", refused=(2, "no BOS token")),
        "--parse-special": Case("--parse-special"),
        "--format": Case(instead="tokenize docs.jsonl -t tok.json -o out --format raw"),
        "--dtype": Case(
            "--dtype int64", base="tokenize docs.jsonl -t tok.json -o out --format npy"
        ),
        "--check": Case("--check 0.5", refused=(2, "--check")),
        "--text-key": Case("--text-key body"),
        "--id-key": Case("--id-key other"),
        **_skips("tokenize"),
    },
    "detokenize": {
        "--tokenizer": Case("-t other.json", refused=(3, "other.json")),
        "--output": _output("detokenize"),
        "--force": EXISTS,
        "--dry-run": PLAN,
    },
    "pack": {
        "--tokenizer": Case("-t other.json"),
        "--seq-len": Case("--seq-len 32"),
        "--output": _output("pack"),
        "--format": Case("--format npy"),
        "--dtype": Case("--dtype int32", base=BASE["pack"] + " --format raw"),
        "--strategy": Case("--strategy best-fit"),
        "--long-docs": Case("--long-docs truncate", base=BEST_FIT),
        "--buffer": Case("--buffer 17", base=BEST_FIT),
        "--fim-rate": Case("--fim-rate 0.5", base=BASE["pack"] + FIM.replace("1", "1e-9", 1)),
        "--fim-spm-rate": Case("--fim-spm-rate 1", base=BASE["pack"] + FIM),
        "--fim-tokens": Case(
            "--fim-tokens '<|im_end|>,<|im_start|>,<|endoftext|>'", base=BASE["pack"] + FIM
        ),
        "--shuffle": Case("--shuffle"),
        "--seed": Case("--seed 1", base=BASE["pack"] + " --shuffle"),
        "--epochs": Case("--epochs 2"),
        "--memory": Case("--memory 0", base=BASE["pack"] + " --shuffle", refused=(2, "--memory")),
        "--force": DIRECTORY_EXISTS,
        "--dry-run": PLAN,
        "--text-key": Case("--text-key body"),
        "--id-key": Case("--id-key other"),
        **_skips("pack"),
    },
    "pretrain": {
        "--output": _output("pretrain"),
        "--max-steps": Case("--max-steps 2"),
        "--model-config": Case("--model-config wide.json"),
        "--init": Case(
            instead="pretrain rows --init small --max-steps 3 --warmup-steps 1 --batch-size 2"
            " --dtype fp32 -o out"
        ),
        "--val": Case("--val rows"),
        "--tokenizer": Case("--tokenizer tok.json", refused=(2, "not the tokenizer")),
        "--learning-rate": Case("--learning-rate 1e-2"),
        "--min-lr-ratio": Case("--min-lr-ratio 0.9"),
        "--lr-schedule": Case("--lr-schedule linear"),
        "--warmup-steps": Case("--warmup-steps 2"),
        "--batch-size": Case("--batch-size 3"),
        "--grad-accum": Case("--grad-accum 2"),
        "--adam-beta1": Case("--adam-beta1 0.5"),
        "--adam-beta2": Case("--adam-beta2 0.5"),
        "--weight-decay": Case("--weight-decay 5"),
        "--max-grad-norm": Case("--max-grad-norm 0.01"),
        "--dtype": Case("--dtype bf16"),
        "--eval-every": Case("--eval-every 1", base=BASE["pretrain"] + " --val rows"),
        "--save-every": Case("--save-every 1"),
        "--keep-last": Case("--keep-last 1", base=SAVES),
        "--resume": Case("--no-resume", after=BASE["pretrain"], refused=(2, "--resume")),
        "--force": DIRECTORY_EXISTS,
        "--dry-run": PLAN,
        "--seed": Case("--seed 2"),
        "--device": DEVICE,
        "--threads": THREADS,
    },
    "finetune": {
        "--output": _output("finetune"),
        "--method": Case("--method other", refused=(2, "'sft'")),
        "--adapter": Case("--adapter lora"),
        "--lora-r": Case("--lora-r 2", base=LORA),
        "--lora-alpha": Case("--lora-alpha 4", base=LORA),
        "--lora-dropout": Case("--lora-dropout 0.5", base=LORA),
        "--lora-target": Case("--lora-target q_proj", base=LORA),
        "--val": Case("--val chat.jsonl"),
        "--val-fraction": Case("--val-fraction 0.25"),
        "--epochs": Case(instead="finetune base chat.jsonl --epochs 2 --dtype fp32 -o out"),
        "--max-steps": Case("--max-steps 2"),
        "--learning-rate": Case("--learning-rate 1e-2"),
        "--min-lr-ratio": Case("--min-lr-ratio 0.9"),
        "--lr-schedule": Case("--lr-schedule cosine"),
        "--warmup-steps": Case("--warmup-steps 2"),
        "--batch-size": Case("--batch-size 3"),
        "--grad-accum": Case("--grad-accum 2"),
        "--weight-decay": Case("--weight-decay 5"),
        "--max-grad-norm": Case("--max-grad-norm 0.01"),
        "--max-length": Case("--max-length 45", base=BASE["finetune"] + " --on-too-long skip"),
        "--on-too-long": Case("--on-too-long skip", base=BASE["finetune"] + " --max-length 40"),
        "--dtype": Case("--dtype bf16"),
        "--eval-every": Case("--eval-every 1", base=BASE["finetune"] + " --val chat.jsonl"),
        "--save-every": Case("--save-every 0", refused=(2, "--save-every")),
        "--resume": Case("--no-resume", after=BASE["finetune"], refused=(2, "--resume")),
        "--force": DIRECTORY_EXISTS,
        "--dry-run": PLAN,
        "--seed": Case("--seed 2"),
        "--device": DEVICE,
        "--threads": THREADS,
    },
    "quantize": {
        "--output": _output("quantize"),
        "--method": Case("--method other", refused=(2, "'rtn'")),
        "--scheme": Case("--scheme Q4_0"),
        "--documents": Case("--documents docs.jsonl", base=BASE["quantize"] + " --json"),
        "--limit-tokens": Case(
            "--limit-tokens 50", base=BASE["quantize"] + " --json --documents docs.jsonl"
        ),
        "--base": Case("--base small", refused=(2, "--base has no effect")),
        "--force": EXISTS,
        "--dry-run": PLAN,
        "--device": Case(
            "--device cuda:77",
            base=BASE["quantize"] + " --documents docs.jsonl",
            refused=NO_DEVICE,
        ),
        "--threads": THREADS,
    },
    "eval": {
        "--tasks": Case("--tasks other", refused=(2, "other")),
        "--documents": Case("--documents more.jsonl"),
        "--data": Case(instead=QUESTIONS.replace("hellaswag_val", "other"), base=QUESTIONS),
        "--limit": Case("--limit 1", base=QUESTIONS),
        "--min": Case("--min hellaswag.acc=2", base=QUESTIONS, refused=(1, "not at least 2")),
        "--resume": Case("--no-resume", base=UNFINISHED, refused=(2, "unfinished")),
        "--context": Case("--context 8"),
        "--limit-tokens": Case("--limit-tokens 50"),
        "--output": Case(instead="eval base --tasks perplexity --documents docs.jsonl --json"),
        "--base": Case("--base small", refused=(3, "small")),
        "--text-key": Case("--text-key body"),
        "--force": DIRECTORY_EXISTS,
        "--dry-run": PLAN,
        "--device": DEVICE,
        "--threads": THREADS,
    },
    "generate": {
        "--chat": Case("--chat", base=CHATTY),
        "--system": Case("--system 'Be brief.'", base=CHATTY + " --chat"),
        "--max-tokens": Case("--max-tokens 4"),
        "--temperature": Case("--temperature 0"),
        "--top-k": Case("--top-k 1"),
        "--top-p": Case("--top-p 0.01"),
        "--min-p": Case("--min-p 0.99"),
        "--seed": Case("--seed 2"),
        "--stop": Case("--stop ' '", base="generate talker hello --max-tokens 4"),
        "--ignore-eos": Case("--ignore-eos", base="generate mute hello --max-tokens 4 --json"),
        "--jsonl": Case(instead="generate base --jsonl --max-tokens 8 --temperature 2 --seed 1"),
        "--base": Case("--base small", refused=(3, "small")),
        "--dry-run": PLAN,
        "--device": DEVICE,
        "--threads": THREADS,
    },
    "serve": {
        "--host": Case("--host 0.0.0.0", watch="stderr"),
        "--port": Case("--port taken", refused=(4, "cannot listen")),
        "--api-key-file": Case("--api-key-file keys.txt"),
        "--max-batch": Case("--max-batch 3"),
        "--name": Case("--name helper"),
        "--base": Case("--base small", refused=(3, "small")),
        "--dry-run": PLAN,
        "--device": DEVICE,
        "--threads": THREADS,
    },
}

# Flags of every command; what they do everywhere is tested at the end of test_flags.py.
EVERYWHERE = {
    "--quiet",
    "--verbose",
    "--json",
    "--no-color",
    "--progress",
    "--traceback",
    "--config",
    "--show-config",
    "--offline",
}
# Flags of `run` and of the commands that can work as it does; they start processes, and what they
# change is seen in commands/test_workers.py and commands/test_executors.py.
UNITS = {
    "--workers",
    "--work-dir",
    "--shard-bytes",
    "--resume",
    "--executor",
    "--shard",
    "--ray-address",
}
# Commands that only look, and `run`, which starts processes: their flags have tests of their own,
# in these files.
ELSEWHERE = {
    "run": "commands/test_run.py commands/test_executors.py",
    "compare": "commands/test_eval.py",
    "inspect": "commands/test_inspect.py commands/test_lineage.py formats/test_plot.py",
    "why": "commands/test_lineage.py",
    "completion": "commands/test_completion.py",
    "doctor": "commands/test_doctor.py",
}

# A command line with a setting that cannot have an effect, its exit code, and what is said of it.
NO_EFFECT = {
    "filter": (BASE["filter"] + " --rules length --dup-line-frac 0.1", 0, "--dup-line-frac"),
    "tokenize": (BASE["tokenize"] + " --rejects kept", 2, "--rejects has no effect"),
    "pretrain": (BASE["pretrain"] + " --eval-every 1", 2, "--eval-every has no effect"),
    "finetune": (BASE["finetune"] + " --eval-every 1", 2, "--eval-every has no effect"),
    "lora": (BASE["finetune"] + " --lora-r 4", 2, "--lora-r have no effect"),
    "quantize": (BASE["quantize"] + " --limit-tokens 9", 2, "--limit-tokens has no effect"),
    "quantize device": (BASE["quantize"] + " --device cpu", 2, "--device has no effect"),
    "generate": ("generate base hello --max-tokens 2 --top-k 4 --seed 1", 0, "--top-k, --seed"),
    "system": (BASE["generate"] + " --system x", 2, "--system has no effect"),
}
