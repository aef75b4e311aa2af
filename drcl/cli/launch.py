"""Commands on several processes: joining those that torchrun started, or starting them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from drcl.cli.errors import Interrupted, refusal
from drcl.errors import RankFailed
from drcl.portable import notice_lost_machines
from drcl.train.parallel import LOST

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure


def is_worker() -> bool:
    """Whether a launcher (torchrun or :func:`launch`) started this process beside others."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def may_be_restarted() -> bool:
    """Whether this process may stand for one that died in the middle of the run.

    Across machines the count does not tell: that of a machine which comes back begins at 0, and a
    change of machines is not counted on the others.
    """
    return _restarts() > 0 or _across_machines()


def _restarts() -> int:
    """How often the launcher has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _across_machines() -> bool:
    return os.environ.get("GROUP_WORLD_SIZE", "1") != "1"


def processes_for(modalities: int, device: str) -> int:
    """How many processes pay: one a modality, up to the GPUs or to the threads there are."""
    on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    if not on_gpu:
        return min(modalities, torch.get_num_threads())
    # A device that was named is the only one that is wanted.
    return min(modalities, torch.cuda.device_count()) if device in ("auto", "cuda") else 1


@contextmanager
def worker() -> Iterator[int]:
    """Join the processes that were started together; gives this one's rank.

    The launcher shows the error that ends it, so that of several with one cause only the first is
    seen. Of errors after which it starts the processes again it shows none; a line here does.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        _meet()
        yield dist.get_rank()
        _leave()
    except (click.exceptions.Exit, Interrupted):
        raise
    except KeyboardInterrupt:
        if int(os.environ["RANK"]) == 0:
            raise
        raise click.exceptions.Exit(Interrupted.exit_code) from None  # the first reports for all
    except Exception as error:
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:
            raise
        _report(error)
        raise click.exceptions.Exit(1) from None


def _leave() -> NoReturn:
    """End a process whose work is done, without what libraries do on their way out.

    A thread of gloo's that lets go of a tensor asks for the interpreter: of a group that is being
    destroyed it waits for ever, and in an interpreter that ends it aborts the process ("terminate
    called without an active exception"), whose run the launcher then takes for failed.
    """
    if dist.get_backend() != "gloo":
        dist.destroy_process_group()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _report(error: Exception) -> None:
    """Leave the error to the launcher, and say it where that will only start again."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    try:
        _raise_explained(error)
    except Exception as shown:
        get_error_handler().record_exception(shown)  # with the traceback of what is handled here
        if _restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
            click.echo("".join(traceback.format_exception_only(shown)), err=True, nl=False)


def _raise_explained(error: Exception) -> NoReturn:
    """The error as it is to be shown: without its traceback where nobody needs one."""
    if isinstance(error, RuntimeError) and "gloo/transport/" in str(error):
        reason = str(error).partition("] ")[2].partition(". This is")[0]
        raise RankFailed(
            "lost the connection to another process: it ended, or its machine did not answer for "
            f"{LOST} s ({reason}); the same command with --resume goes on"
        ) from None
    said = refusal(error)
    if said is not None:
        raise click.ClickException(said) from None
    raise error


def _meet() -> None:
    """``dist.init_process_group()``, also after a restart.

    On one machine torchrun keeps its store over restarts, and with it the addresses of processes
    that are gone (PyTorch issue 135712), so every restart gets names of its own. Across machines
    they count restarts differently: there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has to be set.
    """
    store, rank, world = next(iter(rendezvous("env://")))
    if not _across_machines():
        store = dist.PrefixStore(f"attempt {_restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(store=store, rank=rank, world_size=world)
    notice_lost_machines(LOST)


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run ``drcl`` with these arguments in several processes, the threads divided among them.

    Ctrl-C reaches all of them. If one fails, the others are ended and its error is raised.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the launcher's own account of what is said here
    # Ctrl-C ends and saves an epoch first, which may take its time (in seconds).
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // processes))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="drcl",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "drcl", *arguments)
    except SignalException as received:
        if received.sigval == signal.SIGINT:
            if isinstance(received.__context__, SignalException):  # a second one, and all is ended
                raise Interrupted("interrupted; the same command with --resume goes on") from None
            # The first process has said how to go on.
            raise click.exceptions.Exit(Interrupted.exit_code) from None
        raise click.ClickException(f"ended by {received.sigval.name}") from None
    except ChildFailedError as failed:
        raise click.ClickException(_first_error(failed)) from None


def _kind(failure: ProcessFailure) -> str:
    """The name of the exception that ended the process, if it reported one."""
    message = failure.message
    return message["message"].partition(": ")[0] if isinstance(message, dict) else ""


def _first_error(failed: ChildFailedError) -> str:
    """What went wrong first, in the words of the process or, if it was killed, of the system."""
    killed = [
        f for f in failed.failures.values() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM
    ]
    if killed:
        return (
            f"process {killed[0].local_rank} was killed ({killed[0].signal_name()}); "
            "continue with --resume"
        )
    # A rank that only heard of another's error may have ended before that one.
    heard = [rank for rank, failure in failed.failures.items() if _kind(failure) == "RankFailed"]
    if len(heard) < len(failed.failures):
        for rank in heard:
            del failed.failures[rank]
    rank, failure = failed.get_first_failure()
    if not isinstance(failure.message, dict):
        return f"process {rank} ended with exit code {failure.exitcode}"
    if _kind(failure) == click.ClickException.__name__:
        return str(failure.message["message"].partition(": ")[2])
    return f"process {rank} failed\n{failure.message['extraInfo']['py_callstack']}"
