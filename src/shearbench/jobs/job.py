"""The log of a job: all that a script of the workflow prints, and its errors in plain words."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shearbench.errors import ShearbenchError


class _Tee:
    """A text stream that is also copied to a file, as far as the file's disk has room."""

    def __init__(self, stream: IO[str], copy: IO[str]) -> None:
        self._stream, self._copy = stream, copy

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._copy.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._copy.flush()
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def logged(log: str) -> Iterator[None]:
    """Copy all that the block prints to a log file; if the block fails, log the error and end the process.

    Snakemake shows the log of a failed job (``show-failed-logs``), so the error is written to the log only.
    Of an error that a user can act on (`ShearbenchError`, `OSError`), the log gets the message, and a file
    beside the log, with the suffix ``.traceback``, the traceback. Of other errors, the log gets both.

    Parameters
    ----------
    log : str
        The rule's log file.

    Raises
    ------
    SystemExit
        With status 1 if the block raised an error, and 130 if it was interrupted by Ctrl-C.
    """
    path = Path(log)
    started = time.monotonic()
    stderr, stdout = sys.stderr, sys.stdout
    details = path.with_suffix(".traceback")
    # Unbuffered: with a buffer, text that a full disk refused would be written again when the file is closed.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        details.unlink(missing_ok=True)
        raw = open(path, "wb", buffering=0)  # noqa: SIM115  (closed below, with its text)
    except OSError as error:
        print(f"error: {error}", file=stderr)
        sys.exit(1)
    with io.TextIOWrapper(raw, "utf-8", write_through=True) as file:
        sys.stderr = sys.stdout = tee = _Tee(stderr, file)
        handler = logging.StreamHandler(tee)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)

        def fail(text: str) -> None:
            data = text.encode()
            try:
                whole = raw.write(data) == len(data)
            except OSError:
                whole = False
            if not whole:  # the log's disk is full
                stderr.write(text)
            sys.exit(1)

        try:
            yield
            with contextlib.suppress(OSError):
                file.write(f"done in {time.monotonic() - started:.1f} s\n")
        except (ShearbenchError, OSError) as error:
            text = f"error: {error}\n"
            with contextlib.suppress(OSError):
                details.write_text(traceback.format_exc(), encoding="utf-8")
                text += f"traceback: {details}\n"
            fail(text)
        except KeyboardInterrupt:
            print("interrupted", file=tee)
            sys.exit(128 + signal.SIGINT)
        except Exception:
            fail(traceback.format_exc())
        finally:
            root.removeHandler(handler)
            sys.stderr, sys.stdout = stderr, stdout
