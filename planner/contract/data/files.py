"""Which files of a path are the data: a file, a pattern, or a folder with splits as hub, `datasets` and people lay it.

The test split is nobody's to train on, and what is left alone is named.
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.contract import yaml_text
from planner.contract.data.account import Account
from planner.contract.data.literals import listed, shown
from planner.contract.data.streams import PACKED, open_regular
from planner.contract.data.tables import KINDS, SPLITS, SUFFIXES, kind_of
from planner.contract.errors import InvalidInput
from planner.contract.files import expanded
from planner.contract.sentence import named

MOST_FILES = 20_000
DEEPEST_FOLDER = 6
_NOT_DATA = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
    "package.json",
    "package-lock.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "gitattributes",
}
"""Files that stand beside data and are none."""
_NOTES = re.compile(r"^(readme|licen[sc]e|notice|changelog|requirements|citation|authors|copying|todo|notes?)\b", re.I)
_WORDS = re.compile(r"[a-z]+")
_SHARD = re.compile(r"^(?P<name>.*?)[-_.]?\d{3,}[-_]of[-_]\d{3,}")


@dataclass(slots=True)
class Sources:
    """Files to read, in order of name."""

    train: list[Path] = field(default_factory=list)
    validation: list[Path] = field(default_factory=list)


def find(path: str, account: Account) -> Sources:
    """The data's files by split. What is in the path and not read stands in the account."""
    local = expanded(path)
    try:
        return _find(path, local, account)
    except OSError as error:
        raise InvalidInput(f"{shown(path, 200)}: can't be read: {error.strerror or error}") from None
    except ValueError:  # a NUL byte in the name
        raise InvalidInput(f"{shown(path, 200)}: no file can have this name") from None


def _find(path: str, local: Path, account: Account) -> Sources:
    if local.is_dir():
        found = _folder(local, account)
        if not found.train:
            others = [name for name, _ in account.alone.items()]
            beside = f"; left alone: {listed(list(others), 6)}" if others else ""
            splits = found.validation or any("split" in why for why in account.alone.values())
            what = "no split to train on in this folder" if splits else "no data file in this folder"
            raise InvalidInput(f"{local}: {what} (looked for {', '.join(KINDS)}){beside}; name a file to learn from it")
        return found
    if not local.exists() and any(sign in path for sign in "*?["):
        matches = sorted(Path(name) for name in glob.glob(str(local))[:MOST_FILES])
        if not matches:
            raise InvalidInput(f"{shown(path, 200)}: no file fits this pattern")
        return Sources(train=[_known(match) for match in matches if match.is_file()])
    if not local.exists():
        snapshot = hub_snapshot(path)
        if snapshot is not None:
            account.facts.append(f"{path} is read from the hub's cache ({snapshot.name[:12]}).")
            return _find(str(snapshot), snapshot, account)
        raise InvalidInput(f"{shown(path, 200)}: {_missing(path, local)}")
    return Sources(train=[_known(local)])


def _known(file: Path) -> Path:
    if kind_of(file) is None:
        packed = file.suffix.lower() in (".zip", ".tar", ".tgz", ".7z", ".rar") or ".tar." in file.name.lower()
        way = "unpack it first" if packed else f"use one of {', '.join(KINDS)}, or .gz, .bz2, .xz, .zst of text"
        if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
            way = "save the sheet as CSV"
        raise InvalidInput(f"{file}: data of this kind ({shown(file.suffix) or 'no suffix'}) can't be read; {way}")
    return file


def _missing(path: str, local: Path) -> str:
    near = ""
    if local.parent.is_dir():
        names = [entry.name for entry in list(local.parent.iterdir())[:MOST_FILES] if not entry.name.startswith(".")]
        close = difflib.get_close_matches(local.name, names, n=1)
        near = f" (did you mean {close[0]}?)" if close else ""
    if is_hub_id(path):
        return (
            f"no such data file{near}; a data set of the hub: hf download --repo-type dataset {path}, then plan again"
        )
    return f"no such data file{near}"


def is_hub_id(path: str) -> bool:
    """Whether the words could name a data set of the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", path) is not None and not path.lower().endswith(
        SUFFIXES
    )


def hub_snapshot(name: str) -> Path | None:
    """The newest snapshot of a data set in the hub's cache; None where it was never downloaded."""
    if not is_hub_id(name):
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"datasets--{name.replace('/', '--')}" / "snapshots"
    try:
        kept = [entry for entry in cache.iterdir() if entry.is_dir()]
        return max(kept, key=lambda entry: entry.stat().st_mtime, default=None)
    except OSError:
        return None


# ---- folders -------------------------------------------------------------------------------------------------------


def _folder(folder: Path, account: Account) -> Sources:
    if (folder / "dataset_dict.json").is_file():
        return _saved_splits(folder, account)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return Sources(train=_saved(folder))
    chosen = _from_card(folder, account)
    if chosen is not None:
        return chosen
    files = _walk(folder, account)
    return _by_split(folder, _data_only(folder, files, account), account)


def _saved(folder: Path) -> list[Path]:
    """Arrow files of `save_to_disk`, in the order that its state names."""
    state = _json(folder / "state.json")
    entries = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(entries, list) or state.get("_indices_data_files"):
        raise InvalidInput(f"{folder}: save_to_disk's state.json names no data files; save the data set again")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise InvalidInput(f"{folder}: state.json names the file {shown(name)!r}, which is not there")
    return [folder / str(name) for name in names]


def _saved_splits(folder: Path, account: Account) -> Sources:
    content = _json(folder / "dataset_dict.json")
    names = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise InvalidInput(f"{folder}: dataset_dict.json names no splits; save the data set again")
    groups = {name: _saved(folder / name) for name in names if (folder / name).is_dir()}
    return _sorted_splits(folder, groups, account)


def _json(file: Path) -> Any:
    with open_regular(file) as stream:
        content = stream.read(4 << 20)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{file}: not valid JSON") from None


def _walk(folder: Path, account: Account) -> list[Path]:
    """The folder's own data files, or where it has none those below it; folders named as splits always count."""
    own, below = _entries(folder)
    if any(kind_of(file) and not _is_note(file) for file in own):
        splits = [sub for sub in below if _split_of(sub.name) or sub.name == "data"]
    else:
        splits = below
    found = list(own)
    for sub in below:
        if sub in splits:
            found += _below(sub, 1)
        else:
            account.left_alone(f"{sub.name}/", "a folder beside the data")
        if len(found) > MOST_FILES:
            raise InvalidInput(f"{folder}: more than {MOST_FILES:,} files; name a folder with less beside the data")
    return found


def _below(folder: Path, depth: int) -> list[Path]:
    files, folders = _entries(folder)
    if depth < DEEPEST_FOLDER:
        for sub in folders:
            files += _below(sub, depth + 1)
            if len(files) > MOST_FILES:
                break
    return files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """(files, folders) in order of name, nothing hidden, no links to folders."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number > 4 * MOST_FILES:
                break
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif entry.is_file():
                files.append(folder / entry.name)
    return sorted(files), sorted(folders)


def _is_note(file: Path) -> bool:
    return file.name.lower() in _NOT_DATA or (kind_of(file) == "text" and bool(_NOTES.match(file.stem)))


def _data_only(folder: Path, files: list[Path], account: Account) -> list[Path]:
    """Data files; texts are data where there is nothing else. Two files of one name would be learned twice."""
    known = [file for file in files if kind_of(file) is not None and not _is_note(file)]
    tables = [file for file in known if kind_of(file) != "text"]
    chosen = tables or known or [file for file in files if kind_of(file) == "text"]
    for file in files:
        if file not in chosen and file.name.lower() not in _NOT_DATA:
            why = "a note beside the data" if file.suffix.lower() in (".txt", ".md", ".rst") else "not read as data"
            account.left_alone(str(file.relative_to(folder)), why)
    twins = Counter(_bare(file) for file in chosen)
    for name, count in twins.items():
        if count > 1:
            both = [file.name for file in chosen if _bare(file) == name]
            raise InvalidInput(
                f"{folder}: {listed(list(both))} have one name and may be the same data; name one of them"
            )
    return chosen


def _bare(file: Path) -> Path:
    name = file
    while name.suffix.lower() in (*KINDS, *PACKED):
        name = name.with_suffix("")
    return name


def _split_of(name: str) -> str | None:
    """The split that a name speaks of; a later word wins over an earlier one only where there is no earlier."""
    return next((SPLITS[word] for word in _WORDS.findall(name.lower()) if word in SPLITS), None)


def _by_split(folder: Path, files: list[Path], account: Account) -> Sources:
    groups: dict[str, list[Path]] = {}
    loose = []
    for file in files:
        relative = file.relative_to(folder)
        split = next((part for part in reversed(relative.parts) if _split_of(part)), None)
        if split is None:
            loose.append(file)
        else:
            groups.setdefault(_group(split), []).append(file)
    if not groups:
        return Sources(train=loose)
    if not any(_split_of(name) == "train" for name in groups) and loose:
        groups["train"], loose = loose, []
    for file in loose:
        account.left_alone(str(file.relative_to(folder)), "belongs to no split")
    return _sorted_splits(folder, groups, account)


def _group(part: str) -> str:
    """`train_sft-00000-of-00002.parquet` -> `train_sft`: several splits for training may stand side by side."""
    match = _SHARD.match(part)
    if match:
        return match["name"]
    return _split_of(part) or part


def _sorted_splits(folder: Path, groups: dict[str, list[Path]], account: Account) -> Sources:
    training = [name for name in groups if _split_of(name) == "train"]
    # A split of another name is what there is to learn, where it is the only one.
    training = training or [name for name in groups if _split_of(name) is None]
    if len(training) > 1:
        raise InvalidInput(
            f"{folder}: has the splits {listed(list(training))} to train on; name one: ",
            named("data"),
            f" '{groups[training[0]][0].parent}/{training[0]}*'",
        )
    found = Sources()
    for name, files in groups.items():
        split = _split_of(name)
        if name in training:
            found.train += files
        elif split == "validation" and not found.validation:
            found.validation += files
        else:
            account.left_alone(name, f"{split or 'another'} split, {len(files)} file{'' if len(files) == 1 else 's'}")
    return found


# ---- dataset cards -------------------------------------------------------------------------------------------------


def _from_card(folder: Path, account: Account) -> Sources | None:
    """Files as the card's `configs` name them; None where it names none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with open_regular(card) as stream:
        head = stream.read(256 << 10).decode("utf-8", "replace").lstrip("\ufeff")
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", head, re.DOTALL)
    if match is None or "data_files" not in match[1]:
        return None
    configs = _configs(match[1])
    if not configs:
        return None
    config = configs[0]
    if len(configs) > 1:
        default = [entry for entry in configs if entry.get("default") is True or entry.get("config_name") == "default"]
        names = [entry.get("config_name") for entry in configs]
        if not default:
            raise InvalidInput(f"{folder}: the card has the configurations {listed(names)}; name one's folder or files")
        config = default[0]
        account.facts.append(f"Configuration {shown(config.get('config_name'))} of {listed(names)}.")
    return _named_files(folder, config, account)


def _configs(text: str) -> list[dict[str, Any]]:
    try:
        content = yaml_text.parse(text, "card").value
    except InvalidInput:
        return []
    found = content.get("configs") if isinstance(content, dict) else None
    return (
        [entry for entry in found if isinstance(entry, dict) and entry.get("data_files")]
        if isinstance(found, list)
        else []
    )


def _named_files(folder: Path, config: dict[str, object], account: Account) -> Sources:
    entries = config["data_files"]
    if isinstance(entries, str):
        entries = [{"split": "train", "path": entries}]
    elif isinstance(entries, dict):
        entries = [{"split": split, "path": path} for split, path in entries.items()]
    elif isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        entries = [{"split": "train", "path": entries}]
    base = folder / str(config.get("data_dir") or "")
    groups: dict[str, list[Path]] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("split"), str):
            continue
        patterns = entry.get("path")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            files = _matching(base, folder, pattern)
            if not files:
                raise InvalidInput(
                    f"{folder}: the card names {shown(pattern)!r} for {shown(entry['split'])}; there is none"
                )
            groups.setdefault(entry["split"], []).extend(files)
    return _sorted_splits(folder, groups, account)


def _matching(base: Path, folder: Path, pattern: object) -> list[Path]:
    if not isinstance(pattern, str) or pattern.startswith(("/", "~")) or ".." in Path(pattern).parts:
        raise InvalidInput(f"{folder}: the card names {shown(pattern)!r}, which is outside of the folder")
    every = _below(base, 0) if base.is_dir() else []
    wanted = re.compile(fnmatch.translate(pattern.replace("**/", "*")))
    return [file for file in every if kind_of(file) and wanted.match(file.relative_to(base).as_posix())]


def short_names(files: Iterable[Path], limit: int = 4) -> str:
    """File names in a sentence."""
    return listed([file.name for file in files], limit)
