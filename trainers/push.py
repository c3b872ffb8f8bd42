"""An export to a model hub: one commit of the files that make a model, to a repository that is private unless said otherwise.

The token comes from the environment (HF_TOKEN) and from nowhere else; HF_ENDPOINT names another hub than huggingface.co.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import SettingsError, StorageError, TunefleetError
from tunefleet.cluster.masking import masked, without_folders
from tunefleet.trainers.exported import ADAPTER_CONFIG, ORIGIN

CARD = "README.md"
_KINDS = (".safetensors", ".json", ".jinja")
_NAMES = frozenset({CARD, "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"})
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Target:
    """A repository that may be written to, and the hub's client that may."""

    repository: str
    api: Any


@dataclass(frozen=True)
class Pushed:
    """The commit's page, how many files it holds, and what of the folder was left at home."""

    url: str
    files: int
    left: tuple[str, ...]


def open_target(repository: str, *, public: bool) -> Target:
    """Ask the hub who we are and make the repository, unless it is there. Nothing is sent yet.

    Raises SettingsError for a name that is none, no token, no right to write, and a repository that is public where that was not asked for;
    StorageError for a hub that does not answer.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise SettingsError("--push: no name of a repository", got=repository, want="ORG/NAME", fix="--push my-org/my-model")
    token = os.environ.get("HF_TOKEN")
    if not token:
        fix = "make a token that may write in your account on the hub, then: export HF_TOKEN=..."
        raise SettingsError("--push: no token", got="no HF_TOKEN in the environment", want="a token that may write", fix=fix)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise SettingsError("--push: the hub's client is not installed", want="huggingface_hub", fix="pip install 'tunefleet[hub]'") from error
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with _explained(repository, "the repository cannot be made"):
        who = api.whoami()
        if (who.get("auth", {}).get("accessToken") or {}).get("role") == "read":
            raise SettingsError("--push: this token may only read", got=f"the token of {who.get('name')}", want="one that may write", fix="make another token")
        api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.repo_info(repository).private:
            raise SettingsError("--push: this repository is public", got=repository, want="a private one", fix="say --public, or name another")
    return Target(repository, api)


def push(folder: Path, target: Target, *, message: str) -> Pushed:
    """Send the files of a model, in one commit. Files of an earlier push that this one lacks are taken away: they would be of another model.

    Raises SettingsError for an adapter whose base nobody else has.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    check_pushable(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}
    chosen = [name for name in files if of_a_model(name)]
    with _explained(target.repository, "the model cannot be sent"):
        stale = [name for name in target.api.list_repo_files(target.repository) if of_a_model(name) and name not in chosen]
        adds = [CommitOperationAdd(name, _for_others(files[name], target.repository)) for name in chosen]
        deletes = [CommitOperationDelete(name) for name in stale]
        done = target.api.create_commit(target.repository, [*adds, *deletes], commit_message=message)
    return Pushed(str(done.commit_url), len(adds), tuple(name for name in files if name not in chosen))


def check_pushable(folder: Path) -> None:
    """Raises SettingsError for a folder that is no export, and for an adapter over a base that lies in a folder of this machine."""
    if not (folder / ORIGIN).is_file():
        raise SettingsError("--push: this is no export", got=str(folder), want=f"a folder with {ORIGIN}", fix="name a run, or the folder of its export")
    path = folder / ADAPTER_CONFIG
    if path.is_file():
        check_base(str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]))


def check_base(base: str) -> None:
    """Raises SettingsError for the base of an adapter that lies in a folder of this machine, or nowhere."""
    if not base or Path(base).expanduser().is_dir() or Path(base).is_absolute() or "://" in base:
        fix = "push the merged model: tunefleet export RUN --merge --push ORG/NAME"
        raise SettingsError(
            "--push: this adapter stands on a model that nobody else has", got=base or "random weights", want="a base that is on a hub", fix=fix
        )


def of_a_model(name: str) -> bool:
    """Whether a file is one of those that make a model. Whatever else lies in the folder, keys for instance, stays at home."""
    last = name.rpartition("/")[2]
    return not any(part.startswith(".") for part in name.split("/")) and (last in _NAMES or last.endswith(_KINDS))


def _for_others(path: Path, repository: str) -> str | bytes:
    """What is sent of a file: itself, but no folder of this machine in what we wrote, and its own name in the card."""
    if path.name == CARD:
        return path.read_text(encoding="utf-8").replace('from_pretrained("PATH")', f'from_pretrained("{repository}")').encode()
    if path.name == ORIGIN:
        return (json.dumps(_told(json.loads(path.read_text(encoding="utf-8"))), indent=1) + "\n").encode()
    return str(path)


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value


@contextmanager
def _explained(repository: str, what: str) -> Iterator[None]:
    """Errors of the hub's client as errors that say what to do. No token is in them."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except TunefleetError:
        raise
    except OfflineModeIsEnabled as error:
        raise SettingsError("--push: the environment says offline", got="HF_HUB_OFFLINE", want="a network", fix="unset it") from error
    except HfHubHTTPError as error:
        raise _refused(repository, what, error.response.status_code, _line(error)) from error
    except Exception as error:  # its transports, one of them native, raise kinds of their own
        fix = "look at the network and HF_ENDPOINT (a hub without Xet wants HF_HUB_DISABLE_XET=1); an export stays: `tunefleet export FOLDER --push`"
        raise StorageError(f"{repository}: {what}", got=_line(error), want="a hub that answers", fix=fix) from error


def _refused(repository: str, what: str, status: int, said: str) -> TunefleetError:
    if status == 401:
        return SettingsError("--push: the hub does not know this token", got=said, want="a token that is valid", fix="make a new one, and set HF_TOKEN")
    if status in (403, 404):
        fix = f"use a token that may write to {repository.partition('/')[0]}, or name a place that is yours"
        return SettingsError(f"--push: no right to write to {repository}", got=said, want="the right to write", fix=fix)
    return StorageError(f"{repository}: {what}", got=said, want="a hub that takes it", fix="try again later")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return masked(f"{type(error).__name__}: {lines[0] if lines else ''}")[:300]
