"""`completion`: scripts that let shells complete verbs, options and jobs."""

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence

from cumulus_client.cli.parser import Verb

SHELLS = ("bash", "zsh", "fish")
#: What the scripts ask for the ids to choose from.
_ASK_JOBS = "cumulus jobs --quiet --limit 100 2>/dev/null"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell's")


def completion_verb(verbs: Mapping[str, Verb]) -> Verb:
    """The verb; `verbs`: all of them, as they are when it is used."""

    def act(options: argparse.Namespace) -> int:
        print(script(options.shell, verbs), end="")
        return 0

    return Verb(
        name="completion",
        about="print a script that completes verbs, options and jobs",
        usage="cumulus completion bash|zsh|fish",
        description="Prints a script for the shell:\n"
        '  bash   eval "$(cumulus completion bash)"      in ~/.bashrc\n'
        '  zsh    eval "$(cumulus completion zsh)"       in ~/.zshrc, after compinit\n'
        "  fish   cumulus completion fish > ~/.config/fish/completions/cumulus.fish",
        arguments=_arguments,
        act=act,
    )


def script(shell: str, verbs: Mapping[str, Verb]) -> str:
    """The script for that shell."""
    made = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](list(verbs.values()))
    return "\n".join(made) + "\n"


def _options(verb: Verb) -> Iterator[tuple[argparse.Action, Sequence[str]]]:
    for action in verb.parser()._actions:
        if action.option_strings:
            yield action, action.option_strings


def _takes_jobs(verb: Verb) -> bool:
    return any(action.metavar == "JOB" for action in verb.parser()._actions)


def _takes_files(verb: Verb) -> bool:
    return verb.words


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return text.partition(";")[0].partition(":")[0]


# --- bash ---------------------------------------------------------------------------------------


def _bash(verbs: Sequence[Verb]) -> Iterator[str]:
    yield "# bash completion of cumulus; made by `cumulus completion bash`"
    yield "_cumulus() {"
    yield "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words="
    yield "    COMPREPLY=()"
    yield '    if [ "$COMP_CWORD" = 1 ]; then'
    names = " ".join([*(verb.name for verb in verbs), "--help", "--version"])
    yield f'        COMPREPLY=($(compgen -W "{names}" -- "$current"))'
    yield "        return"
    yield "    fi"
    yield "    case ${COMP_WORDS[1]} in"
    for verb in verbs:
        every = [name for _, names in _options(verb) for name in names]
        valued = [n for action, names in _options(verb) if action.nargs != 0 for n in names]
        yield f"    {verb.name})"
        if valued:
            yield f"        case $before in {'|'.join(valued)})"
            yield '            COMPREPLY=($(compgen -f -- "$current"))'
            yield "            return ;;"
            yield "        esac"
        yield f'        words="{" ".join(every)}"'
        if _takes_jobs(verb):
            yield f'        [[ $current == -* ]] || words="last $({_ASK_JOBS})"'
        elif _takes_files(verb):
            yield "        if [[ $current != -* ]]; then"
            yield '            COMPREPLY=($(compgen -f -- "$current"))'
            yield "            return"
            yield "        fi"
        elif verb.name == "completion":
            yield f'        words="{" ".join(SHELLS)}"'
        yield "        ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield "complete -o filenames -F _cumulus cumulus"


# --- zsh ----------------------------------------------------------------------------------------


def _zsh(verbs: Sequence[Verb]) -> Iterator[str]:
    yield "#compdef cumulus"
    yield "# zsh completion of cumulus; made by `cumulus completion zsh`"
    yield "_cumulus_jobs() {"
    yield f'    local -a ids=(last ${{(f)"$({_ASK_JOBS})"}})'
    yield "    compadd -- $ids"
    yield "}"
    yield "_cumulus() {"
    yield "    local -a verbs=("
    for verb in verbs:
        yield f"        {shlex.quote(f'{verb.name}:{verb.about}')}"
    yield "    )"
    yield "    if (( CURRENT == 2 )); then"
    yield "        _describe verb verbs"
    yield "        return"
    yield "    fi"
    yield "    local verb=$words[2]"
    yield "    shift words; (( CURRENT-- ))"
    yield "    case $verb in"
    for verb in verbs:
        specs = []
        for action, names in _options(verb):
            value = "" if action.nargs == 0 else ":value:_files"
            for name in names:
                specs.append(shlex.quote(f"*{name}[{_zsh_help(action)}]{value}"))
        if _takes_jobs(verb):
            specs.append("'*:job:_cumulus_jobs'")
        elif _takes_files(verb):
            specs.append("'*:file:_files'")
        elif verb.name == "completion":
            specs.append(f"'1:shell:({' '.join(SHELLS)})'")
        yield f"    {verb.name}) _arguments {' '.join(specs)} ;;"
    yield "    esac"
    yield "}"
    yield "compdef _cumulus cumulus"


def _zsh_help(action: argparse.Action) -> str:
    return _help(action).replace("[", "(").replace("]", ")")


# --- fish ---------------------------------------------------------------------------------------


def _fish(verbs: Sequence[Verb]) -> Iterator[str]:
    yield "# fish completion of cumulus; made by `cumulus completion fish`"
    yield "complete -c cumulus -f"
    first = "__fish_use_subcommand"
    for verb in verbs:
        yield f"complete -c cumulus -n {first} -a {verb.name} -d {_fish_quoted(verb.about)}"
    for verb in verbs:
        here = f"'__fish_seen_subcommand_from {verb.name}'"
        for action, names in _options(verb):
            flags = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names
            )
            value = "" if action.nargs == 0 else " -r -F"
            yield f"complete -c cumulus -n {here} {flags}{value} -d {_fish_quoted(_help(action))}"
        if _takes_jobs(verb):
            yield f'complete -c cumulus -n {here} -a "last ({_ASK_JOBS})"'
        elif _takes_files(verb):
            yield f"complete -c cumulus -n {here} -F"
        elif verb.name == "completion":
            yield f"complete -c cumulus -n {here} -a '{' '.join(SHELLS)}'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
