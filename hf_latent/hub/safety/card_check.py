"""`check_card`: what is wrong with a folder that is about to be shown to others."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from huggingface_hub import ModelCard

from hf_latent.hub.bundles.bundling import CODE_RECORD
from hf_latent.hub.bundles.travelling_code import find_foreign_code
from hf_latent.hub.cards.card import HEADINGS, marked_parts, render_card, without_marked_parts, without_part
from hf_latent.hub.cards.numbers import is_known, known_numbers, unknown_numbers
from hf_latent.hub.cards.results import read_json_object
from hf_latent.hub.cards.subject import is_hub_name
from hf_latent.hub.safety.inspection import check_files, list_files

FILE_NAME = re.compile(r"`([\w.-]+\.(?:json|jsonl|png|safetensors|md|svg|csv))`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
REWRITE = "`hf-latent card write` writes it"


@dataclass(frozen=True)
class CardReport:
    """
    What was found.

    Args:
        folder: that was looked at.
        errors: what has to change before others see it.
        notes: what they should know: measurements that are missing, code of an earlier version.
    """

    folder: Path
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        """Whether nothing has to change."""
        return not self.errors


def check_card(folder: Path) -> CardReport:
    """
    Look at a folder with a model, an adapter or results: metadata, numbers, files, code and weights.

    Valid is a folder whose metadata huggingface_hub accepts; each of whose numbers (see
    `hf_latent.hub.cards.numbers.shown_numbers`) is in a JSON file of the folder that names its command; whose
    generated
    parts are what the JSON files say now; which has all files that its card names; and which holds no pickle, token,
    path of a machine, or code other than the travelling modules.

    Raises:
        ValueError: if `folder` is not a folder.
    """
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a folder, got {folder}.")
    report = CardReport(folder)
    _check_files(folder, report)
    path = folder / "README.md"
    if not path.is_file():
        report.errors.append(f"README.md is missing: {REWRITE}.")
        return report
    try:
        card = ModelCard.load(path)
    except (ValueError, KeyError, TypeError) as error:  # huggingface_hub raises all of them for a malformed index
        report.errors.append(f"README.md has metadata that huggingface_hub does not read: {error}")
        return report
    _check_metadata(card, folder, report)
    _check_parts(card.text, folder, report)
    report.errors.extend(
        f"README.md shows {number}, which no JSON file of the folder that names its command holds."
        for number in unknown_numbers(without_part(card.text, "architecture"), folder)  # which is of the model itself
    )
    _check_references(card.text, folder, report)
    return report


def _check_metadata(card: ModelCard, folder: Path, report: CardReport) -> None:
    data = card.data
    for name in ("license", "tags"):
        if not data.get(name):
            report.errors.append(f"README.md has no `{name}` in its metadata: {REWRITE}.")
    bases = data.get("base_model") or []
    for base in [bases] if isinstance(bases, str) else bases:
        if not is_hub_name(base):
            report.errors.append(f"README.md names the base model {base!r}, which is no user/name on the Hub.")
    known = known_numbers(folder)
    for result in data.get("eval_results") or []:
        if not is_known(str(result.metric_value), known):
            report.errors.append(
                f"README.md's metadata says {result.metric_name} is {result.metric_value}, which no JSON file of the "
                "folder that names its command holds."
            )
    if not data.get("eval_results"):
        report.notes.append("nothing is measured that its metadata could say.")


def _check_parts(text: str, folder: Path, report: CardReport) -> None:
    """Parts that are missing, and parts that are not what the JSON files say now."""
    now = marked_parts(render_card(folder))
    shown = marked_parts(text)
    own = {line.strip() for line in without_marked_parts(text).splitlines()}
    for name in now:
        if name not in shown:
            report.errors.append(f"README.md lacks the part `{name}` ({HEADINGS.get(name, ('',))[0]}): {REWRITE}.")
        elif shown[name] != now[name]:
            report.errors.append(f"README.md's part `{name}` is not what the folder's files say: {REWRITE} anew.")
    if not own & {"## Limits", "## Limitations"}:
        report.errors.append("README.md does not say under `## Limits` what it cannot do.")
    report.notes.extend(
        f"the part `{name}` says that something is missing: {line}"
        for name, part in shown.items()
        for line in part.splitlines()
        if re.search(r"\b[Nn]ot (?:measured|recorded|described)\b", line) and not line.startswith("|")
    )


def _check_references(text: str, folder: Path, report: CardReport) -> None:
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    names = set(FILE_NAME.findall(prose))
    names |= {link.partition("#")[0] for link in LINK.findall(prose) if not re.match(r"[a-z]+:|#", link)}
    for name in sorted(names):
        target = (folder / name).resolve()
        if not target.exists():
            report.errors.append(f"README.md names {name}, which is not there.")


def _check_files(folder: Path, report: CardReport) -> None:
    files = list_files(folder)
    if "config.json" in files and not any(name.endswith(".safetensors") for name in files):
        report.errors.append("config.json is there and no weights (*.safetensors).")
    foreign = {
        name: reason
        for name, path in files.items()
        if path.suffix == ".py" and (reason := find_foreign_code(PurePosixPath(name), path.read_bytes()))
    }
    recorded = read_json_object(folder / CODE_RECORD)
    earlier = {name for name in foreign if recorded.get("sha256", {}).get(name) == _sha256(files[name])}
    is_earlier = bool(foreign) and earlier == set(foreign)
    if is_earlier:
        commit = f", commit {recorded['commit']}" if recorded.get("commit") else ""
        report.notes.append(
            f"{len(earlier)} of its modules are those of hf-latent {recorded.get('hf_latent')}{commit}, not of the "
            "installed one; `hf-latent bundle` gives it today's."
        )
        report.errors.extend(_foreign_references(folder, files))
    try:
        check_files(files, folder, trust_remote_code=is_earlier)
    except ValueError as error:
        report.errors.extend(line.removeprefix("- ") for line in str(error).splitlines()[1:])


def _foreign_references(folder: Path, files: dict[str, Path]) -> list[str]:
    """References of `auto_map` to code that is not in the folder."""
    auto_map = read_json_object(folder / "config.json").get("auto_map") or {}
    return [
        f"config.json runs {reference!r}, which is not in the folder."
        for reference in auto_map.values()
        if f"{str(reference).rpartition('.')[0]}.py" not in files
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


__all__ = ["CardReport", "check_card"]
