"""Completion scripts for bash, zsh and fish from a description of every parser."""

from __future__ import annotations

from dataclasses import dataclass

from llmtools import cli


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """flags: as typed, short ones first. choices: empty where any value goes."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]


Parsers = list[tuple[tuple[str, ...], str, list[Option]]]


def bash_script(found: Parsers) -> str:
    """For bash 4 and later; where nothing of ours fits, files are completed."""
    skips = "|".join(sorted(cli.GLOBAL_VALUES))
    cases = []
    for words, _, options in found:
        valued = [o for o in options if o.takes_value]
        inner = [
            f"        {'|'.join(o.flags)}) reply='{' '.join(o.choices)}' ;;"
            for o in valued
            if o.choices
        ]
        free = "|".join(flag for o in valued if not o.choices for flag in o.flags)
        flags = " ".join(flag for o in options for flag in o.flags)
        cases.append(
            f"    '{' '.join(words)}')\n      case \"$previous\" in\n"
            + "".join(line + "\n" for line in inner)
            + (f"        {free}) ;;\n" if free else "")
            + f"        *) [[ $current == -* ]] && reply='{flags}' ;;\n      esac ;;\n"
        )
    for name, row in cli.COMMANDS.items():
        if row.verbs:
            cases.append(f"    '{name}') reply='{' '.join(row.verbs)}' ;;\n")
    nouns = "|".join(name for name, row in cli.COMMANDS.items() if row.verbs)
    names = " ".join(cli.COMMANDS)
    everywhere = " ".join(sorted(cli.GLOBAL_FLAGS | cli.GLOBAL_VALUES))
    return f"""# bash completion of llm
_llm() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
  local chosen= reply= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${{COMP_WORDS[i]}}" in
      {skips}) ((i++)) ;;
      -*) ;;
      *)
        chosen=${{COMP_WORDS[i]}}
        case "$chosen" in
          {nouns}) ((i + 1 < COMP_CWORD)) && chosen+=" ${{COMP_WORDS[i+1]}}" ;;
        esac
        break ;;
    esac
  done
  case "$chosen" in
    '') reply='{names} {everywhere}' ;;
{"".join(cases)}  esac
  COMPREPLY=($(compgen -W "$reply" -- "$current"))
}}
complete -o default -F _llm llm llmtools
"""


def zsh_script(found: Parsers) -> str:
    """For zsh's compsys."""
    rows = "\n".join(f"    {_quoted(f'{n}:{c.summary}')}" for n, c in cli.COMMANDS.items())
    cases = []
    for words, _, options in found:
        specs = " \\\n        ".join(_zsh_spec(o) for o in options)
        drop = f"shift {len(words)} words; ((CURRENT -= {len(words)}))"
        cases.append(
            f"    '{' '.join(words)}')\n      {drop}\n"
            f"      _arguments -s \\\n        {specs} \\\n        '*:file:_files' ;;\n"
        )
    nouns = [(name, row.verbs) for name, row in cli.COMMANDS.items() if row.verbs]
    verbs = "".join(f"    '{n}') compadd {' '.join(v)} ;;\n" for n, v in nouns)
    two = "|".join(name for name, _ in nouns)
    return f"""#compdef llm llmtools
_llm() {{
  local -a commands
  commands=(
{rows}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local chosen=$words[2]
  case $chosen in
    {two}) ((CURRENT > 3)) && chosen="$chosen $words[3]" ;;
  esac
  case $chosen in
{verbs}{"".join(cases)}  esac
}}
_llm "$@"
"""


def _zsh_spec(option: Option) -> str:
    text = "".join("\\" + c if c in "[]:\\" else c for c in option.help)
    value = ""
    if option.takes_value:
        value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
    names = ",".join(option.flags)
    flags = f"{{{names}}}" if len(option.flags) > 1 else names
    excluded = _quoted(f"({' '.join(option.flags)})") if len(option.flags) > 1 else ""
    return f"{excluded}{flags}{_quoted(f'[{text}]{value}')}"


def fish_script(found: Parsers) -> str:
    """For fish; verbs are completed after their noun."""
    lines = ["# fish completion of llm"]
    for name, row in cli.COMMANDS.items():
        lines.append(
            f"complete -c llm -n __fish_use_subcommand -a {name} -d {_quoted(row.summary)}"
        )
        if row.verbs:
            condition = _quoted(f"__fish_seen_subcommand_from {name}")
            lines.append(f"complete -c llm -n {condition} -a {_quoted(' '.join(row.verbs))}")
    for words, _, options in found:
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words)
        for option in options:
            names = [
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in option.flags
            ]
            value = ["-r"] if option.takes_value else []
            if option.choices:
                value = ["-x", "-a", _quoted(" ".join(option.choices))]
            parts = [_quoted(seen), *names, *value, "-d", _quoted(option.help)]
            lines.append(" ".join(["complete -c llm -n", *parts]))
    return "\n".join(lines) + "\ncomplete -c llmtools -w llm\n"


def _quoted(text: str) -> str:
    """A shell word in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"
