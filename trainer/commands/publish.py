"""`publish`: a finished run as a folder, GGUF, for Ollama, MLX, vLLM, or on the hub."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.words import one_line

TARGETS = ("folder", "gguf", "ollama", "mlx", "vllm", "hub")
MERGED = ("gguf", "ollama", "mlx")
"""What takes a whole model unless an adapter is asked for."""


def publish(
    run_dir: Path,
    target: str,
    output: Path,
    *,
    merged: bool | None = None,
    kind: str = "f16",
    dtype: str = "auto",
    repository: str | None = None,
    private: bool = True,
) -> dict[str, object]:
    """Writes a new folder, whole or not at all, and returns what was made and the line that uses it."""
    from trainer.publish import folder as folders
    from trainer.publish import gguf, hub
    from trainer.wire.events import quiet
    from trainer.wire.files import new_folder, whole_folder

    quiet()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folders.require_run(run_dir)
    if target in ("gguf", "ollama"):
        gguf.package()
    if (repository is not None) is not (target == "hub"):
        raise InvalidInput("--repo owner/name goes with --to hub, and --to hub needs it")
    whole = target in MERGED if merged is None else merged
    place = new_folder(output)
    try:
        with whole_folder(place) as made:
            said = folders.publish(run_dir, made, merged=whole, dtype=dtype)
            name = f"{said['base'].rpartition('/')[2]}-tuned"
            if target in ("gguf", "ollama"):
                said |= _gguf(run_dir, made, name=name, merged=bool(said["merged"]), kind=kind)
            if target == "ollama":
                _modelfile(made, said)
            if target == "hub":
                said |= hub.push(made, str(repository), private=private)
    except OSError as error:
        raise RunFailed(f"--output {output}: {error.strerror or error}") from None
    files = sorted(path.name for path in place.iterdir())
    use = _use(target, place, said, name)
    return {"schema": "tuneplan.publish/1", "to": target, "folder": str(output), "files": files, **said, "use": use}


def _gguf(run_dir: Path, made: Path, *, name: str, merged: bool, kind: str) -> dict[str, object]:
    from trainer.publish import gguf
    from trainer.weights import adapter_files

    if merged:
        path = made / f"model-{kind}.gguf"
        count = gguf.write_model(made, path, kind=kind, name=name)
        for left in made.glob("*.safetensors"):
            left.unlink()
        (made / "model.safetensors.index.json").unlink(missing_ok=True)
    else:
        from trainer.commands.generate import trained_folder
        from trainer.loop.loading import read_config

        source = trained_folder(run_dir)
        config = read_config(adapter_files.base_of(source))
        path = made / "adapter-f16.gguf"
        count = gguf.write_adapter(source, path, base_config=config)
    return {"gguf": path.name, "tensors": count}


def _modelfile(made: Path, said: dict[str, object]) -> None:
    """Ollama's own defaults, with the base named where the file holds the adapter alone."""
    if said["merged"]:
        lines = [f"FROM ./{said['gguf']}"]
    else:
        lines = [f"# FROM: the base as Ollama has it, in f16 or q8_0 ({one_line(said['base'])})"]
        lines += [f"FROM {one_line(said['base'])}", f"ADAPTER ./{said['gguf']}"]
    lines += ["PARAMETER temperature 0.7", "# The chat template is the one in the GGUF file.", ""]
    (made / "Modelfile").write_text("\n".join(lines), encoding="utf-8")


def _use(target: str, place: Path, said: dict[str, Any], name: str) -> str:
    """The command line that takes it on."""
    folder = shlex.quote(str(place))
    base = shlex.quote(said["base"])
    if target == "gguf":
        file = shlex.quote(str(place / said["gguf"]))
        return f"llama-cli -m {file} -cnv" if said["merged"] else f"llama-cli -m BASE.gguf --lora {file} -cnv"
    if target == "ollama":
        return f"ollama create {shlex.quote(name.lower())} -f {shlex.quote(str(place / 'Modelfile'))}"
    if target == "mlx":
        return f"mlx_lm.convert --hf-path {folder} --mlx-path {shlex.quote(str(place) + '-mlx')} -q"
    if target == "vllm":
        if said["merged"]:
            return f"vllm serve {folder}"
        return f"vllm serve {base} --enable-lora --lora-modules {shlex.quote(f'tuned={place}')}"
    if target == "hub":
        return f"https://huggingface.co/{said['repository']}"
    return f"plan generate {folder} --prompt …" if not said["merged"] else f"transformers chat {folder}"


def command(given: Any) -> int:
    """`python -m trainer publish`."""
    merged = True if given.merged else False if given.adapter else None
    output = given.output or Path(f"{given.run_dir.name}-{given.to}")
    said = publish(
        given.run_dir,
        given.to,
        output,
        merged=merged,
        kind=given.type,
        dtype=given.dtype,
        repository=given.repo,
        private=not given.public,
    )
    print(json.dumps(said, indent=1))
    return 0
