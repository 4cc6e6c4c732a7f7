"""Folders on disk: whole, sharded, damaged, and not ours to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.folder import decoder_settings, load_decoder, save_decoder
from danlu.model.parts import initialise, unfused_state
from danlu.model.settings import ModelSettings


def decoder(**shape: Any) -> Decoder:
    small = {"vocab_size": 61, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 48} | shape
    made = Decoder.empty(ModelSettings.model_validate(small))
    initialise(made, 0)
    return made


class Words:
    """Stands in for a tokenizer: ids and files."""

    eos_id, bos_id, pad_id = 3, None, 4

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize("shard_bytes", [5e9, 8_000])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_loads_bit_for_bit(
    tied: bool, dtype: torch.dtype | None, shard_bytes: float, tmp_path: Path
) -> None:
    model = decoder(tie_embeddings=tied)
    save_decoder(model, tmp_path / "model", shard_bytes=shard_bytes, dtype=dtype)
    index = tmp_path / "model" / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes == 8_000)
    if index.exists():
        content = json.loads(index.read_text())
        assert content["weight_map"].keys() == unfused_state(model).keys()
        assert content["metadata"]["total_size"] == sum(p.numel() for p in model.parameters()) * (2 if dtype else 4)
    back = load_decoder(tmp_path / "model")
    assert back.settings == model.settings
    for (name, weight), loaded in zip(model.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(weight.to(dtype or weight.dtype).float(), loaded), name


def test_loading_converts(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "model")
    assert {parameter.dtype for parameter in load_decoder(tmp_path / "model", torch.bfloat16).parameters()} == {
        torch.bfloat16
    }


def test_token_ids_and_stops_are_written(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "model", Words(61), stop_ids=(7, 3))
    config, generation = (
        json.loads((tmp_path / "model" / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    assert (config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == (3, 4, None)
    assert generation["eos_token_id"] == [7, 3]
    assert (tmp_path / "model" / "tokenizer.json").exists()


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    class Broken(Words):
        def save(self, folder: Path) -> None:
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        save_decoder(decoder(), tmp_path / "model", Broken(10))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="61 rows"):
        save_decoder(decoder(), tmp_path / "model", Words(62))
    save_decoder(decoder(), tmp_path / "model")
    with pytest.raises(UserError, match="already"):
        save_decoder(decoder(), tmp_path / "model")


def test_an_existing_folder_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    model = decoder()
    doubled = {name: weight * 2 for name, weight in unfused_state(model).items()}
    save_decoder(model, tmp_path, state=doubled)
    assert (tmp_path / "state").is_dir()
    back = unfused_state(load_decoder(tmp_path))
    assert all(torch.equal(weight, back[name]) for name, weight in doubled.items())


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return edit


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def misnamed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_where_the_header_has_a_pickles_first_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    padding = (ord("(") - size) % 256
    path.write_bytes((size + padding).to_bytes(8, "little") + content[8 : 8 + size] + b" " * padding)


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "JSON object"),
        (edit_config(model_type="gpt2"), "'gpt2' is not supported"),
        (edit_config(model_type="mine", auto_map={"AutoModel": "code.py"}), "is never run"),
        (edit_config(hidden_size=None), "hidden_size missing"),
        (edit_config(num_attention_heads=5), "heads (5)"),
        (edit_config(num_key_value_heads=3), "kv_heads (3) must divide"),
        (edit_config(num_hidden_layers=3), "weights missing: 12 (model.layers.2"),
        (edit_config(num_hidden_layers=1), "weights unknown: 12 (model.layers.1"),
        (edit_config(vocab_size=62), "is [61, 32] and not [62, 32]"),
        (edit_config(quantization_config={"bits": 4}), "quantization_config"),
        (edit_config(hidden_act="relu"), "activation"),
        (edit_config(use_sliding_window=True, sliding_window=8, max_window_layers=1), "1 of 2 layers"),
        (edit_config(rope_theta=5.0), "rope_theta is 5.0 and 10000.0"),
        (edit_config(rope_parameters={"rope_type": "longrope", "rope_theta": 10_000.0}), "'longrope' is not supported"),
        (
            edit_config(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters={"rope_type": "default"}),
            "say different things",
        ),
        (edit_weights(lambda state: {k: v for k, v in state.items() if k != DOWN}), f"weights missing: 1 ({DOWN})"),
        (edit_weights(lambda state: state | {"extra": torch.ones(1)}), "weights unknown: 1 (extra)"),
        (edit_weights(lambda state: state | {DOWN: torch.ones(3)}), f"{DOWN} is [3] and not [32, 48]"),
        (edit_weights(lambda state: state | {"lm_head.weight": torch.ones(61, 32)}), "weights unknown: 1 (lm_head"),
        (cut_short, "damaged or cut short"),
        (cut_where_the_header_has_a_pickles_first_byte, "damaged or cut short"),
        (misnamed, "these are safetensors under the name of a pickle"),
        (
            edit_weights(lambda state: state | {DOWN: state[DOWN].char()}),
            f"1 of 26 weights are stored as integers ({DOWN} in int8)",
        ),
        (edit_weights(lambda state: state | {DOWN: state[DOWN].byte()}), "in uint8"),
        (edit_weights(lambda state: {k: v.int() for k, v in state.items()}), "in int32 and 23 more"),
        (edit_weights(lambda state: state | {DOWN: state[DOWN].bool()}), "in bool"),
        (lose_a_shard, "missing: model-00001-of-00002.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    ],
)
def test_folders_that_cannot_be_read_say_why(harm: Callable[[Path], Any], complaint: str, tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "model")
    harm(tmp_path / "model")
    with pytest.raises(UserError) as refused:
        load_decoder(tmp_path / "model")
    assert complaint in str(refused.value)


def test_old_files_with_copies_of_what_is_computed_load(tmp_path: Path) -> None:
    model = decoder(tie_embeddings=True)
    save_decoder(model, tmp_path / "model")
    embedding = model.embed.weight.detach().clone()
    more = {"lm_head.weight": embedding, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    edit_weights(lambda state: state | more)(tmp_path / "model")
    assert torch.equal(load_decoder(tmp_path / "model").embed.weight, embedding)


def test_windows_that_are_switched_off_are_none(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "model")
    for changes in (
        {"use_sliding_window": False, "sliding_window": 4096},
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 4096, "layer_types": ["full_attention"] * 2},
    ):
        edit_config(**changes)(tmp_path / "model")
        assert decoder_settings(tmp_path / "model").sliding_window is None
    edit_config(use_sliding_window=True, max_window_layers=0, layer_types=None)(tmp_path / "model")
    assert decoder_settings(tmp_path / "model").sliding_window == 4096
