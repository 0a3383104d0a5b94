"""What this machine has to train with."""

from __future__ import annotations


def report() -> dict[str, object]:
    """Versions, devices with their memory and precisions, optional extras, and the data folder."""
    import psutil
    import torch

    from planner.contract.files import user_data_dir
    from trainer.measure import devices

    found: list[dict[str, object]] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            entry = devices.describe(torch.device("cuda", index))
            entry |= {"index": index, "free_bytes": free, "visible_bytes": total}
            entry["bf16"] = torch.cuda.is_bf16_supported(False)
            found.append(entry)
    if torch.backends.mps.is_available():
        found.append(devices.describe(torch.device("mps")))
    memory = psutil.virtual_memory()
    found.append({**devices.describe(torch.device("cpu")), "free_bytes": int(memory.available)})
    return {
        "schema": "tuneplan.doctor/1",
        "versions": devices.versions(),
        "default_device": str(devices.choose("auto")),
        "devices": found,
        "linear_cross_entropy": hasattr(torch.nn.functional, "linear_cross_entropy"),
        "data_folder": str(user_data_dir()),
    }
