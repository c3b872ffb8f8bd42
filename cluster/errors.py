"""The errors of tunefleet: what, got, want, fix. Every one crosses process borders by pickle.

TunefleetError                exit code 1: the run failed
├── RequestError              exit code 2: the request was wrong, nothing was spent
│   ├── SettingsError         a key or value of a run file or of the command line
│   ├── DataError             rows: a missing or empty file, a bad row, a policy that says stop
│   ├── OutputError           the output folder: exists, is held by another run, has nothing to resume
│   ├── PreflightError        this machine or cluster cannot carry the run
│   └── Refusal               several of the above, reported at once
├── StorageError              reading or writing failed, or what was read is not what was written
├── CheckpointError           a checkpoint is missing, torn or does not fit
├── Stopped                   somebody asked for an end, and the run saved what it had: exit code 143
└── WorkerError               a worker died, hung or raised, and the failure budget is spent
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TunefleetError(Exception):
    """A failure with four lines: what went wrong, what was got, what is wanted, how to fix it."""

    exit_code = 1

    def __init__(self, what: str, *, got: str = "", want: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.got, self.want, self.fix = what, got, want, fix

    def __str__(self) -> str:
        rows = (("got: ", self.got), ("want:", self.want), ("fix: ", self.fix))
        return "\n".join([self.what, *(f"  {name} {text}" for name, text in rows if text)])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.got, self.want, self.fix)

    def headline(self) -> str:
        """One line for a log: the class and what went wrong."""
        return f"{type(self).__name__}: {self.what}"


class RequestError(TunefleetError):
    """The request was wrong; nothing was spent."""

    exit_code = 2


class SettingsError(RequestError):
    """A key or a value of a run file or of the command line."""


class DataError(RequestError):
    """Rows that cannot be trained on: missing, empty, broken, or refused by a policy."""


class OutputError(RequestError):
    """The output folder exists, is held by another run, or has nothing to resume."""


class PreflightError(RequestError):
    """This machine or cluster cannot carry the run."""


class Refusal(RequestError):  # noqa: N818 - it holds errors, and is named for what happens
    """Every problem of one request, reported at once."""

    def __init__(self, problems: Sequence[RequestError]) -> None:
        super().__init__(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}, nothing was started")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"{type(p).__name__}: {p}" for p in self.problems)])

    def __reduce__(self) -> tuple[object, ...]:
        return Refusal, (self.problems,)

    @classmethod
    def raise_if(cls, problems: Iterable[RequestError]) -> None:
        """Raise the problem itself when there is one, all of them together when there are more; one that was found twice counts once."""
        first: dict[tuple[type[RequestError], str], RequestError] = {}
        for problem in problems:
            first.setdefault((type(problem), str(problem)), problem)
        found = list(first.values())
        if len(found) == 1:
            raise found[0]
        if found:
            raise cls(found)


class StorageError(TunefleetError):
    """Reading or writing failed, or what was read is not what was written."""


class CheckpointError(TunefleetError):
    """A checkpoint is missing, torn, or does not fit the model."""


class Stopped(TunefleetError):  # noqa: N818 - named for what happened
    """Somebody asked the run to end, and it did so at a step boundary; it can go on."""

    exit_code = 143


class WorkerError(TunefleetError):
    """A worker died, hung or raised, and the failure budget is spent."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word closest to a misspelt one, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def _rebuild(kind: type[TunefleetError], what: str, got: str, want: str, fix: str) -> TunefleetError:
    return kind(what, got=got, want=want, fix=fix)
