"""`pull`: a repository to this machine, refused where loading it could do harm."""

import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode, snapshot_download

from hf_latent.hub.errors import attempt, explain
from hf_latent.hub.inspection import check_files, check_names, list_files
from hf_latent.hub.tokens import tokens_in_use

REPO_TYPES = (None, "model", "dataset")


def pull(
    repo_id: str,
    folder: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    repo_type: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """
    Download a model, adapter, decoder or data set, and look at it before anything is loaded.

    Nothing of it is run. Refused are pickles (by name before, by content after the download), weights outside of the
    folder, and, without `trust_remote_code`, Python files that are not byte for byte those of the installed
    hf-latent, and configurations that name code of another repository. Interrupted, the same call goes on where it
    stopped.

    Args:
        repo_id (`str`): `"user/name"`.
        folder (`str` or `os.PathLike`, *optional*): where to; must be empty or not exist, and is put in place whole.
            Default: the cache of huggingface_hub, which `from_pretrained(repo_id)` reads too, also offline.
        revision (`str`, *optional*): branch, tag, commit or `refs/pr/N`.
        token (`str`, *optional*): default: what `hf auth login` has stored, or HF_TOKEN.
        repo_type (`str`, *optional*): `"model"` (the default) or `"dataset"`.
        trust_remote_code (`bool`): take code that is not this library's. It is still not run here.

    Returns:
        The folder.

    Raises:
        ValueError: naming what is refused and why; for arguments that do not fit. `folder` is not written then.
        HubError: what the Hub did not give or what did not get through; the message says what to do.
    """
    if repo_type not in REPO_TYPES:
        raise ValueError(f"`repo_type` must be 'model', 'dataset' or None, got {repo_type!r}.")
    target = None if folder is None else Path(folder)
    if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`folder` must be empty or not exist, got {target}: choose another, or delete it.")
    known = tokens_in_use(token)
    beside = None if target is None else target.with_name(f".{target.name}.partial")

    names: list[str] = []

    def download() -> Path:
        if not is_offline_mode():
            names.extend(HfApi(token=token).list_repo_files(repo_id, repo_type=repo_type, revision=revision))
            check_names(names)
        return Path(
            snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                token=token,
                local_dir=beside,
                library_name="hf-latent",
            )
        )

    what = f"{repo_id}: not pulled."
    path = attempt(download, lambda error: explain(error, what, right="read", known=known))
    files = list_files(path)
    if beside is not None and names:
        for name in set(files) - set(names):  # of an interrupted pull of another revision
            files.pop(name).unlink()
    try:
        check_files(files, path, is_leaving=False, trust_remote_code=trust_remote_code)
    except ValueError:
        if beside is not None:
            shutil.rmtree(beside)
        raise
    if target is None or beside is None:
        return path
    shutil.rmtree(beside / ".cache", ignore_errors=True)  # of the download
    if target.exists():
        target.rmdir()
    beside.rename(target)
    return target


__all__ = ["pull"]
