"""New tokens behind prompts, by transformers' own ``generate``: in batches padded on the left, or streamed as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunefleet.cluster.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from tunefleet.data.tokens import Encoder

Finish = Literal["stop", "length", "interrupted"]
HALF = "�"  # what is decoded of a character whose last bytes are still to come
_PLAIN: dict[str, Any] = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""A folder's own generation config may ask for penalties; they look at the padding too, so a text would depend on what else is in its batch."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are chosen: ``temperature`` 0 takes the likeliest each time; above 0 they are drawn from the whole distribution, by ``seed``."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """Raises SettingsError for numbers that mean nothing."""
        if self.max_new_tokens < 1 or self.temperature < 0:
            got = f"{self.max_new_tokens} tokens at temperature {self.temperature:g}"
            raise SettingsError("generation: out of range", got=got, want="1 token or more at 0 or above", fix="mend it")

    def settings(self) -> dict[str, Any]:
        """Of transformers' generate."""
        drawn = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        return drawn if self.temperature > 0 else {"do_sample": False}


def ends_of(tokenizer: Any, encoder: Encoder | None) -> list[int] | None:
    """The tokens that end an answer."""
    closing = encoder.closing_id() if encoder is not None else None
    known = {token for token in (tokenizer.eos_token_id, closing) if token is not None}
    return sorted(known) or None


def continued(
    model: Any, prompts: Sequence[Sequence[int]], pad_id: int, ends: list[int] | None, max_new_tokens: int, device: torch.device, **how: Any
) -> list[list[int]]:
    """New token ids behind each prompt, without those that end it and fill behind; greedy unless ``how`` (of transformers' generate) says otherwise.

    One batch. It is padded on the left, whatever side the tokenizer pads on, and the mask says so: a text does not depend on its neighbours.
    """
    import torch

    longest = max(len(ids) for ids in prompts)
    ids_BT = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in prompts], device=device)
    mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    how = {"do_sample": False, **_PLAIN, **how}
    with torch.no_grad():
        out_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=max_new_tokens, pad_token_id=pad_id, eos_token_id=ends, **how)
    new: list[list[int]] = out_BT[:, longest:].tolist()
    return [before_end(row, ends) for row in new]


def before_end(ids: Sequence[int], ends: Sequence[int] | None) -> list[int]:
    """The ids in front of the first one that ends an answer."""
    place = next((i for i, token in enumerate(ids) if token in (ends or ())), len(ids))
    return list(ids[:place])


class Clock:
    """Handed to transformers' generate as the streamer of a batch: when each of its steps had chosen its tokens, in wall seconds from the start."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._prompt, self._began = True, time.monotonic()

    def put(self, value: torch.Tensor) -> None:
        """The prompts come first, then a token for each row; they are on the host by then."""
        if not self._prompt:
            self.seconds.append(time.monotonic() - self._began)
        self._prompt = False

    def end(self) -> None:
        """Nothing is held back."""


class Stream:
    """What transformers' generate hands tokens to, one at a time; whole characters are passed on as they come."""

    def __init__(self, tokenizer: Any, ends: Sequence[int] | None, write: Callable[[str], None]) -> None:
        self.tokenizer, self.ends, self.write = tokenizer, ends, write
        self.ids: list[int] = []
        self.text, self.ended = "", False
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take in the prompt first, then new tokens."""
        if self._prompt:
            self._prompt = False
            return
        for token in value.flatten().tolist():
            self.ended = self.ended or token in (self.ends or ())
            if not self.ended:
                self.ids.append(token)
                self._pass_on(final=False)

    def end(self) -> None:
        """Pass on what was held back."""
        self._pass_on(final=True)

    def _pass_on(self, *, final: bool) -> None:
        whole = str(self.tokenizer.decode(self.ids, skip_special_tokens=True))
        if final or not whole.endswith(HALF):
            new, self.text = whole[len(self.text) :], whole
            if new:
                self.write(new)
