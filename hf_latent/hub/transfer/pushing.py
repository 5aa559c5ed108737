"""`push`: a model, adapter, decoder or data set to the Hub, in one commit, whole or not at all."""

import glob
from dataclasses import replace
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, is_offline_mode
from transformers import PreTrainedTokenizerBase

from hf_latent.hub.safety.contents import check_complete
from hf_latent.hub.safety.inspection import IGNORED_FILES, IGNORED_FOLDERS, check_files
from hf_latent.hub.safety.tokens import find_token, tokens_in_use
from hf_latent.hub.transfer.errors import HubError, attempt, explain
from hf_latent.hub.transfer.preparation import Prepared, prepare
from hf_latent.hub.transfer.push_plan import MAIN, PushPlan, Remote, make_plan, read_remote

PULL_REQUESTS = "refs/pr/"


def push(
    source: Any,
    repo_id: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    base_model: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
    repo_type: str | None = None,
    large: bool = False,
    dry_run: bool = False,
    verify: bool = True,
) -> PushPlan:
    """
    Push what loads anywhere with transformers, peft or datasets: `from_pretrained(repo_id, trust_remote_code=True)`.

    It is one commit: after a failure the repository is as it was before, or complete. Large files that have arrived
    are not sent again. Files of an earlier push that belong to what is replaced (weights, code) are deleted in the
    same commit; cards, results and plots that are only there stay. If the branch changes meanwhile, nothing is pushed.

    The code that a model needs is written where the folder lacks it, into what is pushed and not into the folder.

    What a training keeps for itself (optimizer and trainer states, `checkpoint-N`, logs of trackers, caches) is left
    out, and said in the plan's `left_out`. Nothing is pushed of a folder that has another pickle, Python files that
    are not byte for byte those of the installed hf-latent, absolute paths of this machine, tokens or keys, or links
    out of the folder.

    Args:
        source (`str`, [`~pathlib.Path`], [`PreTrainedModel`], [`~peft.PeftModel`] or [`~datasets.Dataset`]):
            A folder with a model, an adapter, a decoder (`bundle_decoder`) or a data set (`save_to_disk`, parquet
            files, a run of `hf-latent traces`), or one of the objects; a model is bundled, a data set written as
            parquet files first.
        repo_id (`str`): `"user/name"`, or `"name"` for the user of the token. Created if there is none.
        tokenizer: saved with a model or PEFT model.
        base_model (`str`, *optional*): of an adapter that was trained from a folder: its base model's name on the Hub.
        private (`bool`, *optional*): of a new repository. `True` for one that exists and is public raises.
        revision (`str`, *optional*): branch, created from `main` if there is none, or `refs/pr/N`.
        create_pr (`bool`): open a pull request with the commit instead.
        commit_message (`str`, *optional*): first line of the commit.
        token (`str`, *optional*): default: what `hf auth login` has stored, or HF_TOKEN.
        repo_type (`str`, *optional*): `"model"` or `"dataset"`; default: what `source` is.
        large (`bool`): for folders with thousands of files, or more than one commit can take: several commits, by
            huggingface_hub's `upload_folder`, which also resumes within files if `hf_xet` is installed. In return the
            repository is incomplete until the last commit, and after a failure until the push was repeated.
        dry_run (`bool`): send nothing and return what would be sent.
        verify (`bool`): load a model or decoder in a process that cannot import hf-latent first.

    Returns:
        [`PushPlan`]: files with sizes, what is deleted, and the commit (none after a dry run).

    Raises:
        ValueError: naming file and reason for what is refused; for arguments that do not fit.
        RuntimeError: if a model or decoder does not load without hf-latent.
        HubError: what the Hub did not take or what did not get through; the message says what to do. It has no token
            in it, and `status` is the HTTP status.
    """
    known = tokens_in_use(token)
    message = commit_message or "Upload with hf-latent"
    _check_arguments(repo_type, message, known)
    name = str(repo_id).rsplit("/", 1)[-1]
    with prepare(source, name, tokenizer=tokenizer, base_model=base_model, verify=verify) as prepared:
        repo_type = _check_type(repo_type, prepared.kind)
        check_files(prepared.files, prepared.origin, known_tokens=known, made=prepared.folder)
        verify = verify and not prepared.was_verified
        check_complete(prepared.kind, prepared.folder, prepared.files, origin=prepared.origin, verify=verify)
        api = HfApi(token=token, library_name="hf-latent")
        push = _Push(api, prepared, repo_id, repo_type, revision or MAIN, private, create_pr, message, known)
        return push.plan() if dry_run else push.send(large=large)


class _Push:
    """One push of a folder that was checked."""

    def __init__(
        self,
        api: HfApi,
        prepared: Prepared,
        repo_id: str,
        repo_type: str,
        revision: str,
        private: bool | None,
        create_pr: bool,
        message: str,
        known: list[str],
    ) -> None:
        self.api, self.prepared, self.repo_id, self.repo_type = api, prepared, repo_id, repo_type
        self.revision, self.private, self.create_pr = revision, private, create_pr
        self.message, self.known = message, known

    def plan(self) -> PushPlan:
        """What would be sent; asks the Hub, unless HF_HUB_OFFLINE is set."""
        return attempt(lambda: self._plan(offline_ok=True)[0], lambda error: self._explain(error, "Nothing was sent."))

    def send(self, *, large: bool) -> PushPlan:
        """Create the repository and the branch where they are missing, upload, commit."""
        untouched = "Not pushed; nothing was changed on the Hub."
        plan, remote = attempt(lambda: self._plan(offline_ok=False), lambda error: self._explain(error, untouched))
        action = self._commit_in_parts if large else self._commit
        try:
            return attempt(lambda: action(plan, remote), lambda error: self._explain(error, self._state(plan, large)))
        except HubError:
            if not self.create_pr and (arrived := self._arrived(plan)) is not None:
                return arrived
            raise

    def _plan(self, *, offline_ok: bool) -> tuple[PushPlan, Remote]:
        if "/" not in self.repo_id and not (offline_ok and is_offline_mode()):
            self.repo_id = f"{self.api.whoami()['name']}/{self.repo_id}"
        plan, remote = make_plan(
            self.api,
            self.prepared.files,
            repo_id=self.repo_id,
            repo_type=self.repo_type,
            revision=self.revision,
            kind=self.prepared.kind,
            left_out=self.prepared.left_out,
            offline_ok=offline_ok,
            create_pr=self.create_pr,
        )
        if self.private and remote.is_private is False:
            raise ValueError(
                f"`private`=True, but {self.repo_id} exists and is public: make it private in its settings first, or "
                "push without `private`."
            )
        if self.revision.startswith(PULL_REQUESTS) and not plan.is_new and not remote.has_revision:
            raise ValueError(f"`revision`={self.revision!r} is no pull request of {self.repo_id}.")
        return plan, remote

    def _commit(self, plan: PushPlan, remote: Remote) -> PushPlan:
        plan, remote = self._create(plan, remote)
        where: dict[str, Any] = {"repo_id": self.repo_id, "repo_type": self.repo_type, "create_pr": self.create_pr}
        additions = [CommitOperationAdd(file.path, self.prepared.files[file.path]) for file in plan.sent]
        # Before the branch: an upload that fails leaves nothing behind that shows.
        start = self.revision if remote.has_revision else MAIN
        self.api.preupload_lfs_files(additions=additions, revision=start, free_memory=False, **where)
        if not remote.has_revision:
            self.api.create_branch(self.repo_id, branch=self.revision, repo_type=self.repo_type, exist_ok=True)
        info = self.api.create_commit(
            operations=[*additions, *(CommitOperationDelete(path) for path in plan.deleted)],
            commit_message=self.message,
            revision=self.revision,
            parent_commit=plan.parent,
            **where,
        )
        return _done(plan, info)

    def _commit_in_parts(self, plan: PushPlan, remote: Remote) -> PushPlan:
        plan, remote = self._create(plan, remote)
        if not remote.has_revision:
            self.api.create_branch(self.repo_id, branch=self.revision, repo_type=self.repo_type, exist_ok=True)
        ignored = [f"{place}{name}/*" for name in sorted(IGNORED_FOLDERS) for place in ("", "*/")]
        ignored += [glob.escape(name) for name in self.prepared.left_out]
        info = self.api.upload_folder(
            repo_id=self.repo_id,
            repo_type=self.repo_type,
            folder_path=self.prepared.folder,
            revision=None if self.create_pr and self.revision == MAIN else self.revision,
            create_pr=self.create_pr,
            commit_message=self.message,
            parent_commit=None if self.create_pr else plan.parent,
            ignore_patterns=[*ignored, *(f"{place}{name}" for name in sorted(IGNORED_FILES) for place in ("", "*/"))],
            delete_patterns=[glob.escape(path) for path in plan.deleted] or None,
        )
        return _done(plan, info)

    def _create(self, plan: PushPlan, remote: Remote) -> tuple[PushPlan, Remote]:
        """The repository, if it is not there, and then what is in it."""
        if not plan.is_new:
            return plan, remote
        if not self.create_pr:
            self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=self.private, exist_ok=True)
        fresh, remote = self._plan(offline_ok=False)
        return replace(fresh, is_new=True), remote

    def _arrived(self, plan: PushPlan) -> PushPlan | None:
        """The push, if all of it is there although the answer was lost; None otherwise, or if that cannot be said."""
        try:
            now, remote = self._plan(offline_ok=False)
        except Exception:  # also of the transport, which are no OSError
            return None
        if not remote.has_revision or now.sent or now.deleted or now.parent == plan.parent:
            return None
        url = f"{self.api.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{self.repo_id}"
        return replace(plan, commit_oid=now.parent, commit_url=f"{url}/commit/{now.parent}")

    def _state(self, plan: PushPlan, large: bool) -> str:
        """What a failure has left on the Hub."""
        if large:
            return "The push was interrupted: a part of the files may be in the repository until you push again."
        if self.create_pr:
            return "Not pushed; if a pull request is open on the page of the repository, it is complete."
        try:
            head = read_remote(self.api, self.repo_id, self.repo_type, self.revision)
        except Exception:
            return "Not confirmed: the repository is as it was before, or complete."
        if head.commit is None:
            return "Not pushed; the repository was not created."
        if plan.is_new:
            return "Not pushed; the repository was created and is empty."
        if head.has_revision and head.commit != plan.parent:
            return "Not pushed; nothing of this push is in the repository."
        return "Not pushed; the repository is as it was before."

    def _explain(self, error: Exception, state: str) -> Exception:
        return explain(error, f"{self.repo_id}: {state}", right="write", known=self.known)


def _check_arguments(repo_type: str | None, message: str, known: list[str]) -> None:
    if repo_type not in (None, "model", "dataset"):
        raise ValueError(f"`repo_type` must be 'model', 'dataset' or None, got {repo_type!r}.")
    if kind := find_token(message, known):
        raise ValueError(f"`commit_message` has {kind} in it, and everybody can read it.")


def _check_type(repo_type: str | None, kind: str) -> str:
    needed = "dataset" if kind == "dataset" else "model"
    if repo_type not in (None, needed):
        raise ValueError(f"`repo_type` must be {needed!r} for a {kind}, got {repo_type!r}.")
    return needed


def _done(plan: PushPlan, info: CommitInfo) -> PushPlan:
    return replace(plan, commit_url=str(info.commit_url), commit_oid=info.oid, pr_url=info.pr_url)


__all__ = ["push"]
