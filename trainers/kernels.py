"""Native code that a model's config would have fetched from a hub: it is refused, whoever's the folder is.

transformers takes ``attn_implementation`` and ``experts_implementation`` from a folder's config.json, and where the package ``kernels`` is installed a name
with a slash, or flash attention that is not installed, is downloaded and loaded. The environment says no to that as well (USE_HUB_KERNELS).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from tunefleet.cluster.errors import SettingsError

_OWN = {"", "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm"}
_INSTALLED = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def refuse_kernels(config: Any, source: str) -> None:
    """Raises SettingsError when a config of transformers, or one inside it, names code that is not installed here."""
    for key, name in _named(config):
        if name in _OWN or (name in _INSTALLED and find_spec(_INSTALLED[name]) is not None):
            continue
        raise SettingsError(
            "model: its config asks for a kernel that is not installed, and none is fetched from a hub",
            got=f"{source}: {key}: {name}",
            want=f"one of {', '.join(sorted(_OWN - {''}))}, or flash_attention_2 with flash-attn installed",
            fix=f"remove {key} from its config.json, and choose by model.attn_implementation",
        )


def _named(config: Any) -> Iterator[tuple[str, str]]:
    """What a config and its parts name, as transformers keeps it."""
    from transformers import PretrainedConfig

    for key, value in vars(config).items():
        if key in ("_attn_implementation_internal", "_experts_implementation_internal") and isinstance(value, str):
            yield key.removeprefix("_").removesuffix("_internal"), value
        elif isinstance(value, PretrainedConfig):
            yield from _named(value)
