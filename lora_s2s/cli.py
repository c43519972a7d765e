"""The Typer app. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import atexit
import errno
import gc
import itertools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lora_s2s import __version__
from lora_s2s.commands import _complete
from lora_s2s.commands._all import COMMANDS, GROUPS
from lora_s2s.commands._failures import show, show_failure, show_traceback, unexpected
from lora_s2s.console import (
    announce_loading,
    discard,
    plain,
    say,
    show_waiting,
    stop_waiting,
    tell_in_signal_handler,
)
from lora_s2s.errors import COMMAND_LINE, UsageError, closest, quoted
from lora_s2s.machine import share_with_others
from lora_s2s.pipeline.failures import (
    FORESEEN,
    check_current_folder,
    check_interpreter,
    failure_of,
)
from lora_s2s.pipeline.surroundings import LIBRARY_SETTINGS, hide_kernels
from lora_s2s.systems import WINDOWS

# Typer 0.26 and later have their own copy of click; the bases of a public exception fit every
# version.
_USAGE_ERRORS: tuple[type[Any], ...] = typer.BadParameter.__mro__[1:3]


# What several processes do together.
_SHARED = ("train", "predict", "eval")
_ANYWHERE = ("--debug", "--offline")
# Where these are given, a user or other processes write on the terminal too.
_OTHERS_WRITE = r"(^|[ =])(-|--(interactive|processes|workers))($|[ =])"
_MOMENT = 0.01  # seconds
_MOST_JOINED = 40  # arguments that may be one name without its quotes
_LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname")


class Commands(TyperGroup):
    """All commands; turns every failure into a message and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Runs ``args``, or the process's arguments, and exits.

        ``--debug`` and ``--offline`` can appear anywhere before ``--``.
        """
        if os.environ.get(_complete.VARIABLE):
            run = partial(super().main, [], prog_name="lora-s2s", standalone_mode=False)
            sys.exit(_complete.answer(run, _ANYWHERE))
        given: Sequence[str] | None = args[0] if args else extra.pop("args", None)
        words: list[str] = []
        for number, word in enumerate(sys.argv[1:] if given is None else given, start=1):
            text = _as_text(word)
            if text is None:
                show(f"argument {number} is not UTF-8 text: {plain(word)}", hint=_NOT_TEXT)
                sys.exit(2)
            words.append(text)
        end = words.index("--") if "--" in words else len(words)
        debug, offline = (word in words[:end] for word in _ANYWHERE)
        whole = list(words)
        words = [word for place, word in enumerate(words) if word not in _ANYWHERE or place > end]
        if offline:
            _forbid_network()
        before = COMMAND_LINE.set(whole)
        try:
            with _reported_once():
                code = super().main(
                    words,
                    **{**extra, "prog_name": "lora-s2s", "standalone_mode": False, "obj": whole},
                )
        except typer.Abort:
            say("stopped", failure=True)
            code = 130
        except _USAGE_ERRORS as error:
            code = _show_usage(error, words)
        except BrokenPipeError:  # the reader of stdout is gone; Python must not flush again
            discard(sys.stdout)
            code = 1
        except FORESEEN as error:
            failure = failure_of(error)
            if debug:
                show_traceback(error)
            if failure is None:
                raise
            show_failure(failure)
            code = failure.exit_code
        finally:
            COMMAND_LINE.reset(before)
            stop_waiting()
        sys.exit(code if isinstance(code, int) else 0)


_NOT_TEXT = (
    "give the text with --input FILE in UTF-8 (iconv -f latin1 -t utf-8 converts), or rename the "
    "file"
)


def _as_text(word: str) -> str | None:
    """Returns an argument as UTF-8 text, whatever the locale; None if it is not UTF-8."""
    try:
        word.encode()
        return word
    except UnicodeEncodeError:  # bytes outside the locale's encoding arrive as lone surrogates
        with suppress(UnicodeError):
            return os.fsencode(word).decode()
    return None


def _forbid_network() -> None:
    """Sets libraries to offline mode before their import, and refuses other connections."""
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline"
    )
    sys.addaudithook(_refuse_network)


def _refuse_network(event: str, details: tuple[object, ...]) -> None:
    if event not in (*_LOOK_UPS, "socket.connect", "socket.sendto", "socket.sendmsg"):
        return
    place = details[0] if event in _LOOK_UPS else details[1]
    host = place[0] if isinstance(place, tuple) else place if event in _LOOK_UPS else None
    # Without a host it is a socket of this machine, as worker processes use them.
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"--offline forbids the network: {host}")


def _show_usage(error: Any, words: Sequence[str]) -> int:
    """Shows a wrong command line like every other error; an empty one shows the help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "lora-s2s"
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        hint = f"{command} --help"
        if corrected := _with_setting(error, words):
            error.possibilities, hint = [], corrected
        message = error.format_message().rstrip(".")
        if "unexpected extra" in message:
            hint = _what_was_meant(words) or hint
        elif message.startswith("Missing option"):
            hint = _pasted([*words, error.param.opts[0], error.param.metavar])
        elif message.startswith("No such command"):
            asked = next((word for word in words if f"'{word}'" in message), "")
            if meant := closest(asked, error.ctx.command.commands):
                hint = _pasted([meant if word == asked else word for word in words])
        elif message.startswith("No such option") and command == "lora-s2s":
            hint = f"options come after the command: lora-s2s COMMAND {words[0]} …"
        elif message.startswith("No such option"):
            asked = error.option_name
            if meant := closest(asked[2:], [one[2:] for one in error.possibilities or ()]):
                hint = _pasted([f"--{meant}" if word == asked else word for word in words])
        show(message, hint=hint)
    return 2


def _pasted(words: Sequence[str]) -> str:
    return " ".join(map(quoted, ["lora-s2s", *words]))


def _with_setting(error: Exception, words: Sequence[str]) -> str:
    """The command with a ``--set`` for what was given as an option or alone; empty if none was."""
    from lora_s2s.recipe.meanings import meant_key
    from lora_s2s.recipe.schema import SECTIONS

    command = getattr(getattr(error, "ctx", None), "command", None)
    if not any("--set" in parameter.opts for parameter in getattr(command, "params", ())):
        return ""
    setting = re.compile(rf"(--)?({'|'.join(SECTIONS)})\.\w+=")
    option = getattr(error, "option_name", None)
    key = meant_key(option.lstrip("-")) if option else ""
    kept, given, left = list[str](), "", list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if given or kept[-1:] == ["--set"]:
            kept.append(word)
        elif setting.match(word):
            given = word.removeprefix("--")
        elif key and name == option:
            if not equals and "=" not in key:
                value = left.pop(0) if left else "VALUE"
            given = key if "=" in key else f"{key}={value}"
        else:
            kept.append(word)
    return _pasted([*kept, "--set", given]) if given else ""


def _what_was_meant(words: Sequence[str]) -> str | None:
    """A setting without its ``=``, the existing file whose name several arguments are together, or
    several data files, to which the shell may have expanded a pattern.
    """
    from lora_s2s.readers.origins import is_data_name

    for place, (option, key) in enumerate(itertools.pairwise(words)):
        if option == "--set" and "=" not in key[:-1]:
            value = next((word for word in words[place + 2 :] if word != "="), "VALUE")
            setting = f"{key.rstrip('=')}={value.lstrip('=')}"
            return f"a setting is one word: --set {quoted(setting)}"
    for first, last in itertools.combinations(range(min(len(words), _MOST_JOINED) + 1), 2):
        name = " ".join(words[first:last])
        if last - first > 1 and os.path.isfile(os.path.expanduser(name)):
            return f"quote a name with a space: {quoted(name)}"
    files = [word for word in words if is_data_name(word)]
    if words[0] == "train" and len(files) > 1:
        recipe = [word for word in words[1:2] if word not in files and word[0] != "-"]
        verb = "train" if recipe or "--model" in words else "init"
        others = [word for word in words[1:] if word not in (*files, *recipe, "--data")]
        data = [word for file in files for word in ("--data", file)]
        return _pasted([verb, *recipe, *data, *others])
    return None


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fine-tune encoder-decoder models such as Flan-T5 with LoRA.",
    epilog="Start with: lora-s2s demo. Every command accepts --debug (show tracebacks) and "
    "--offline (no network).",
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def _version(context: typer.Context, requested: bool) -> None:
    if requested and not context.resilient_parsing:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    started, command = os.environ.get("WORLD_SIZE", "1"), context.invoked_subcommand
    if started != "1" and command not in _SHARED:
        raise UsageError(
            f"{command} runs in one process, but {started} were started",
            hint="run it without a launcher",
        )
    if command not in ("recipes", "adapters"):
        check_interpreter()
    check_current_folder()  # some libraries end the process without it
    announce_loading(share_with_others)
    if not re.search(_OTHERS_WRITE, " ".join(context.obj or ())):
        show_waiting(str(command))


_stopping: list[int] = []
_swallowed: list[bool] = []


def _stopped(number: int, _frame: object) -> None:
    """Ends the process through an exception, so that incomplete folders are removed.

    A second signal ends it at once; the next run removes what is left. Training handles its own.
    """
    code = 128 + (number if number == signal.SIGINT else signal.SIGTERM)
    if not _stopping:
        _stopping.append(code)
        tell_in_signal_handler(
            f"\nstopped by {signal.Signals(number).name}; no incomplete files are left\n"
        )
    elif not _swallowed:
        os._exit(code)
    _swallowed.clear()
    sys.exit(_stopping[0])


def _stop_again(ignored: Any) -> None:
    """Stops once more where an object's ``__del__`` swallowed the exception, a moment later."""
    if ignored.exc_type is SystemExit and _stopping:
        _swallowed.append(True)
        threading.Timer(_MOMENT, signal.raise_signal, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(ignored)


@contextmanager
def _reported_once() -> Iterator[None]:
    """Suppresses errors that libraries raise because of a signal: the signal was reported."""
    try:
        yield
    except Exception:
        if _stopping:
            sys.exit(_stopping[0])
        raise


def _open_standard_streams() -> None:
    """Opens the null device in place of closed standard streams, so that no file gets their number.

    ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` stay None. Open ones escape what their encoding
    lacks; Windows' pipes and files get UTF-8, not the code page.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() returns the lowest free number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    encoding = "utf-8" if WINDOWS else None
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(encoding=encoding, errors="backslashreplace", newline="\n")


def _end_quickly() -> None:
    """Spares the interpreter's last search for garbage, 1.6 s once torch is loaded. Modules made
    with nanobind would report on stderr what that leaves; triton's is.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def main() -> None:
    """The console script."""
    _open_standard_streams()
    # SIGUSR1: SLURM's warning; SIGHUP: a closed terminal (ignored under nohup); SIGBREAK:
    # Windows' Ctrl+Break. Some systems lack them.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and (name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN):
            signal.signal(number, _stopped)
    sys.unraisablehook = _stop_again
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    hide_kernels()
    if os.environ.get(_complete.VARIABLE):
        # With it, Typer breaks help texts into lines, and takes "[:SPLIT]" for markup.
        sys.modules["rich"] = None  # type: ignore[assignment]
        sys.excepthook = lambda *_: None
    elif "--debug" not in sys.argv:
        sys.excepthook = unexpected
    atexit.register(_end_quickly)
    # Not app(): Typer would install its own excepthook.
    typer.main.get_command(app)()
