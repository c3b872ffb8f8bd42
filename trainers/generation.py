"""Text from a run, one of its checkpoints, an export, or any model: answers through the chat template, or raw text continued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.storages.folders import has_file, joined, local_folder
from tunefleet.data.examples import Message
from tunefleet.data.layout import ANSWERS
from tunefleet.trainers.chain import EXPORT
from tunefleet.trainers.exported import ADAPTER_CONFIG, ORIGIN, load_exported, read_origin
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import Model, RunFile
from tunefleet.trainers.stage import RUN_FILE
from tunefleet.trainers.vocabulary import load_tokenizer

if TYPE_CHECKING:
    import torch

    from tunefleet.data.tokens import Encoder

BATCH = 8


class Generator:
    """A model, its tokenizer, and how it is to be asked.

    ``source``: a run's output (its export, else its newest checkpoint), a checkpoint's folder, a model or adapter folder, or a hub id.
    Raises RequestError or CheckpointError when there is no model.
    """

    def __init__(self, source: str, *, trust_code: bool = False) -> None:
        """``trust_code``: see ``evaluate``."""
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if has_file(source, RUN_FILE) and has_file(source, f"{EXPORT}/{ORIGIN}"):
            source = joined(source, EXPORT)
        if has_file(source, RUN_FILE) or has_file(source, "manifest.json"):
            model, self.tokenizer, encoder = self._from_checkpoint(source, trust_code)
        else:
            model, self.tokenizer, encoder = self._from_folder(source)
        self.model, self.encoder = model.to(self.device).eval(), encoder

    def generate(self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """A text for each prompt, without the prompt; ``temperature`` 0 takes the likeliest token each time, and above 0 draws by ``seed``."""
        import torch

        if max_new_tokens < 1 or temperature < 0:
            raise SettingsError(
                "generation: out of range", got=f"{max_new_tokens} tokens at {temperature}", want="1 token or more at 0 or above", fix="mend it"
            )
        torch.manual_seed(seed)
        encoded = [self.encode(prompt) for prompt in prompts]
        return [text for start in range(0, len(encoded), BATCH) for text in self._batch(encoded[start : start + BATCH], max_new_tokens, temperature)]

    def encode(self, prompt: str) -> list[int]:
        """Token ids that the model goes on from: a user's turn and the header of the answer, or the text as it stands."""
        return prompt_ids(self.tokenizer, self.encoder, prompt)

    def _batch(self, encoded: Sequence[list[int]], max_new_tokens: int, temperature: float) -> list[str]:
        drawing: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        ends = ends_of(self.tokenizer, self.encoder)
        new = continued(self.model, encoded, self.tokenizer.pad_token_id, ends, max_new_tokens, self.device, **drawing)
        texts: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts

    def _from_checkpoint(self, source: str, trust_code: bool) -> tuple[Any, Any, Encoder | None]:
        from tunefleet.trainers.evaluation.plain import PlainModel
        from tunefleet.trainers.evaluation.standalone import find_subject

        subject = find_subject(source, None, trust_code=trust_code)
        assert subject.storage is not None
        assert subject.ticket is not None
        assert subject.ticket.manifest is not None
        plain = PlainModel.base(subject.run, self.device)
        plain.load(subject.storage, subject.ticket.manifest)
        tokenizer = load_tokenizer(subject.run.model, subject.run.data.chat_template)
        answers = make_objective(subject.run.objective, tokenizer.pad_token_id).layout.name == ANSWERS.name
        return plain.model, tokenizer, _encoder(tokenizer, subject.run) if answers else None

    def _from_folder(self, source: str) -> tuple[Any, Any, Encoder | None]:
        origin = read_origin(source)
        alone = has_file(source, ADAPTER_CONFIG) and origin is None
        tokenizer = tokenizer_beside_adapter(source) if alone else load_tokenizer(Model(name_or_path=source))
        answers = origin["layout"] == ANSWERS.name if origin else bool(tokenizer.chat_template)
        return load_exported(source), tokenizer, _encoder(tokenizer, None) if answers else None


def prompt_ids(tokenizer: Any, encoder: Encoder | None, prompt: str) -> list[int]:
    """Token ids to go on from: with an encoder a user's turn and the header of the answer, else the text as it stands."""
    if encoder is not None:
        return encoder.prompt([Message("user", prompt)])
    ids: list[int] = tokenizer(prompt)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]  # some tokenizers end every text, and nothing follows an end
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [start]


def ends_of(tokenizer: Any, encoder: Encoder | None) -> list[int] | None:
    """The tokens that end an answer."""
    closing = encoder.closing_id() if encoder is not None else None
    known = {token for token in (tokenizer.eos_token_id, closing) if token is not None}
    return sorted(known) or None


def continued(
    model: Any, prompts: Sequence[list[int]], pad_id: int, ends: list[int] | None, max_new_tokens: int, device: torch.device, **how: Any
) -> list[list[int]]:
    """New token ids behind each prompt, in one batch padded on the left; greedy unless ``how`` (of transformers' generate) says otherwise."""
    import torch

    longest = max(len(ids) for ids in prompts)
    ids_BT = torch.tensor([[pad_id] * (longest - len(ids)) + ids for ids in prompts], device=device)
    mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    how = {"do_sample": False, **how}
    with torch.no_grad():
        out_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=max_new_tokens, pad_token_id=pad_id, eos_token_id=ends, **how)
    new: list[list[int]] = out_BT[:, longest:].tolist()
    return new


def _encoder(tokenizer: Any, run: RunFile | None) -> Encoder:
    """The encoder of the training. Prompts are never cut, so its length is of no account."""
    from tunefleet.data.tokens import Encoder

    return Encoder(tokenizer, run.data.chat_template if run else None, max_length=1 << 30)


def tokenizer_beside_adapter(source: str) -> Any:
    """The adapter's own tokenizer where it has one, else that of the base it names."""
    import json

    folder = Path(local_folder(source, weights=False))
    named = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    own = (folder / "tokenizer.json").is_file()
    return load_tokenizer(Model(name_or_path=source) if own else Model(name_or_path=named["base_model_name_or_path"], revision=named.get("revision")))
