"""`pull`: a repository to this machine, refused where loading it could do harm."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from huggingface_hub.hf_api import RepoFile

from hf_latent.data.output_folders import check_output_folder
from hf_latent.hub.safety.inspection import check_files, check_names, is_ignored, list_files
from hf_latent.hub.safety.tokens import tokens_in_use
from hf_latent.hub.transfer.errors import HubError, attempt, explain
from hf_latent.hub.transfer.push_plan import oid_of

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
        folder (`str` or `os.PathLike`, *optional*): where to; must be empty or not exist, and is put in place whole,
            each file compared with the Hub's object id. Default: the cache of huggingface_hub, which
            `from_pretrained(repo_id)` reads too, also offline; after a failure it has what it had before.
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
    if target is not None:
        check_output_folder(target, "folder")
    what, known = f"{repo_id}: not pulled.", tokens_in_use(token)
    download = _Download(HfApi(token=token, library_name="hf-latent"), repo_id, repo_type, revision)

    def failure(error: Exception) -> Exception:
        return explain(error, what, right="read", known=known)

    if target is None:
        return attempt(lambda: download.to_cache(trust_remote_code=trust_remote_code), failure)
    return attempt(lambda: download.to_folder(target, trust_remote_code=trust_remote_code), failure)


@dataclass(frozen=True)
class _Download:
    """
    One repository on its way here.

    The revision is resolved once: all files are those of one commit, also if the branch changes meanwhile.
    """

    api: HfApi
    repo_id: str
    repo_type: str | None
    revision: str | None

    def to_cache(self, *, trust_remote_code: bool) -> Path:
        """The name of the revision means the new commit only when that is here and was looked at."""
        if is_offline_mode():
            path = self._fetch(self.revision)
            check_files(list_files(path), path, is_leaving=False, trust_remote_code=trust_remote_code)
            return path
        while True:
            commit, oids = self._ask()
            path = self._fetch(commit)
            files = list_files(path)
            if missing := sorted(set(oids) - set(files)):
                raise self._incomplete(missing)
            check_files(files, path, is_leaving=False, trust_remote_code=trust_remote_code)
            now = self.api.resolve_revision(self.repo_id, repo_type=self.repo_type, revision=self.revision)
            if now.resolved == commit:
                return path

    def to_folder(self, target: Path, *, trust_remote_code: bool) -> Path:
        """By way of a folder beside it, where an interrupted download goes on."""
        beside = target.with_name(f".{target.name}.partial")
        commit, oids = self._ask()
        self._fetch(commit, beside)
        files = list_files(beside)
        for name in set(files) - set(oids):  # of an interrupted pull of another revision
            files.pop(name).unlink()
        # Where the Hub fails in between, huggingface_hub returns the folder as it is.
        wrong = [name for name, (oid, is_lfs) in oids.items() if not _is_whole(files.get(name), oid, is_lfs=is_lfs)]
        if wrong:
            for name in set(wrong) & set(files):
                files[name].unlink()
            raise self._incomplete(wrong)
        try:
            check_files(files, beside, is_leaving=False, trust_remote_code=trust_remote_code)
        except ValueError:
            shutil.rmtree(beside)
            raise
        shutil.rmtree(beside / ".cache", ignore_errors=True)  # of the download
        if target.exists():
            target.rmdir()
        beside.rename(target)
        return target

    def _ask(self) -> tuple[str, dict[str, tuple[str, bool]]]:
        """The commit, and of each of its files the object id, and whether that is a large file's."""
        info = self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=self.revision)
        tree = self.api.list_repo_tree(self.repo_id, repo_type=self.repo_type, revision=info.sha, recursive=True)
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        check_names([file.path for file in files])
        # What belongs to git and caches is no part of what was downloaded.
        large = {file.path: file.lfs.sha256 for file in files if file.lfs is not None}
        kept = [file for file in files if not is_ignored(file.path)]
        return str(info.sha), {file.path: (large.get(file.path, file.blob_id), file.path in large) for file in kept}

    def _fetch(self, revision: str | None, folder: Path | None = None) -> Path:
        return Path(
            snapshot_download(
                self.repo_id,
                repo_type=self.repo_type,
                revision=revision,
                token=self.api.token,
                local_dir=folder,
                library_name="hf-latent",
            )
        )

    def _incomplete(self, names: list[str]) -> HubError:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return HubError(f"{self.repo_id}: not pulled. {shown} did not arrive whole: wait, and do it again.")


def _is_whole(path: Path | None, oid: str, *, is_lfs: bool) -> bool:
    return path is not None and path.is_file() and oid_of(path, is_lfs=is_lfs) == oid


__all__ = ["pull"]
