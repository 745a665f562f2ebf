"""Where pretrained weights come from: the hub's cache, the hub, a file, an installed package, another run."""

import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.low_rank import merged
from lightning_seg.networks.backbones.tensor_file import (
    ADDED,
    by_name,
    misfit,
    nested_states,
    plain_state,
    read_tree,
    split_choice,
)

FLAG = "--model.network.init_args.weights"
_RUN, _BACKBONE_OF = "run:", "backbone-of:"


def read_weights(name: str, weights: bool | str) -> tuple[object, str, str]:
    """Read the pretrained tensors for a timm model, under the names their publisher gave them.

    Args:
        name: A timm model name, with or without a pretrained tag.
        weights: True for timm's own weights, the path of a ``.safetensors``, ``.pth`` or ``.ckpt`` file, perhaps with
            the name of the tensors in it, ``FILE#NAME``, or ``package:NAME`` for an installed Python package that
            carries a ``.pth`` file.

    Returns:
        What the file holds, its name for messages, and NAME or an empty string.

    Raises:
        UserError: If the weights cannot be found, reached or read.
    """
    if weights is True:
        file, source = _from_hub(name)
        return read_tree(file, FLAG), source, ""
    if str(weights).startswith("package:"):
        return _from_package(name, str(weights).removeprefix("package:")), str(weights), ""
    file, choice = split_choice(str(weights or ""))
    return read_tree(file, FLAG), str(file), choice


def published(name: str) -> tuple[str, str, str]:
    """Say where the pretrained weights of a timm model are; nothing is downloaded.

    Returns:
        Their URL, their place on the hub, and the name of their file there, where these are known.

    Raises:
        UserError: There are none.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.url or config.hf_hub_id):
        raise UserError(
            f"timm has no pretrained weights for {name}. Use {FLAG}=PATH for a file of your own, "
            f"or {FLAG}=false to start from random weights."
        )
    return str(config.url or ""), config.hf_hub_id or "", config.hf_hub_filename or ""


def names_a_run(weights: bool | str) -> bool:
    """Whether weights are those of another run (see `load_weights_of_run`)."""
    return str(weights).startswith((_RUN, _BACKBONE_OF))


def load_weights_of_run(network: nn.Module, weights: str, find_checkpoint: Callable[[str], Path]) -> str:
    """Give a network the weights of another run's best checkpoint.

    A part of the network (backbone, decoder, head, ...) is taken whole, or not at all where a name or shape differs,
    such as that of a head for another number of classes.

    Args:
        network: The network.
        weights: ``run:RUN`` for all parts that fit, or ``backbone-of:RUN``.
        find_checkpoint: Returns the checkpoint file of RUN.

    Returns:
        What was taken and what begins at random, in words.

    Raises:
        UserError: There is no such run, or its backbone does not fit; the network is as it was then.
    """
    prefix = _RUN if weights.startswith(_RUN) else _BACKBONE_OF
    file = find_checkpoint(weights.removeprefix(prefix))
    tree = read_tree(file, FLAG)
    state = tree.get("state_dict", {}) if isinstance(tree, dict) else {}
    theirs = {
        key.removeprefix("network."): value
        for key, value in state.items()
        if key.startswith("network.") and isinstance(value, Tensor)
    }
    theirs = merged(theirs)  # those of a run with LoRA
    ours = plain_state(network, added=any(f".{ADDED}" in key for key in theirs))
    taken, left = [], []
    for part, _ in network.named_children():
        own, found = (
            {key: value for key, value in tensors.items() if key.startswith(f"{part}.")}
            for tensors in (ours, theirs)
        )
        why, misses = misfit(own, by_name(found, own))
        if why and part == "backbone":
            raise UserError(
                f"{file} does not hold the weights of this backbone: {why}. Choose the backbone of that run, or other "
                f"weights with {FLAG}."
            )
        if why or (own and prefix == _BACKBONE_OF and part != "backbone"):
            left.append(f"{part} ({why})" if why else part)
        elif own:
            ours |= found
            taken.append(f"{part} {len(found)} tensors")
    network.load_state_dict(ours)
    return f"{', '.join(taken)} of {file}" + (f"; at random: {', '.join(left)}" if left else "")


def _from_hub(name: str) -> tuple[Path, str]:
    """Find timm's own weights in the cache, or download them; fail within seconds without a network.

    Returns:
        The file, and the name of its source.
    """
    import huggingface_hub as hub

    url, place, file_there = published(name)
    if not place:
        return _from_url(name, url), url
    repo, _, revision = place.partition("@")
    files = [file_there] if file_there else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        cached = hub.try_to_load_from_cache(repo, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached), place
    # The hub client retries for about half a minute without a network, so ask first whether it answers.
    reason = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else unreachable(hub.constants.ENDPOINT)
    for file in [] if reason else files:
        try:
            return Path(hub.hf_hub_download(repo, file, revision=revision or None)), place
        except Exception as error:  # missing file, refused access, full disk: the message says which
            reason = str(error).splitlines()[0]
    raise UserError(
        f"Expected the pretrained weights of {name} ({repo}, {files[0]}); they are not in "
        f"{hub.constants.HF_HUB_CACHE} and cannot be downloaded: {reason}.\n"
        f"Download {hub.hf_hub_url(repo, files[0])} elsewhere and use {FLAG}=PATH/{files[0]}, "
        f"or use {FLAG}=false to start from random weights."
    )


def _from_url(name: str, url: str) -> Path:
    """Find a file in torch's cache, or download it."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])
    reason = "" if path.is_file() else unreachable(url)
    if reason:
        raise UserError(
            f"Expected the pretrained weights of {name} in {path}, and they cannot be downloaded: {reason}.\n"
            f"Download {url} elsewhere and put it there or use {FLAG}=PATH, "
            f"or use {FLAG}=false to start from random weights."
        )
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit("-", 1)[1])
    return path


def unreachable(address: str) -> str:
    """Say why an address cannot be reached, or nothing if it can (proxies of the environment are used)."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return ""  # it answered
    except OSError as error:
        return f"{address}: {getattr(error, 'reason', error)}"
    return ""


def _from_package(name: str, package: str) -> dict[str, Tensor]:
    """Read the one ``.pth`` of an installed package and give its tensors timm's names, by order and shape."""
    import timm

    try:
        with resources.as_file(resources.files(package)) as folder:
            files = sorted(folder.rglob("*.pth"))
    except ModuleNotFoundError:
        raise UserError(
            f"{FLAG}=package:{package} expects the Python package {package}, which is not installed. "
            f"Install it with `uv pip install {package.replace('_', '-')}`."
        ) from None
    if len(files) != 1:
        raise UserError(f"Expected one .pth file in the package {package}, found {len(files)}.")
    states = [state for _, state in nested_states(read_tree(files[0], FLAG))]
    if len(states) != 1:
        raise UserError(f"Expected one state dict in {files[0].name} of {package}, found {len(states)}.")
    state = states[0]
    expected = timm.create_model(name, pretrained=False).state_dict()
    # The last part of a name (weight, bias, running_mean, ...) tells apart tensors of equal shape.
    found, wanted = ([(k.split(".")[-1], v.shape) for k, v in s.items()] for s in (state, expected))
    if found != wanted:
        raise UserError(
            f"The {len(found)} tensors of {files[0].name} do not match the {len(wanted)} of {name} in order "
            f"and shape. Choose the backbone that the package {package} was made for."
        )
    return dict(zip(expected, state.values(), strict=True))
